//! The table: one row a measure, with our figure, Docker's, their ratio and the goal.

use serde_json::{Value, json};

/// What a figure shall be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// Ours divided by Docker's is at most this.
    Ratio(f64),
    /// Ours is at most this, in the row's unit.
    Value(f64),
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Option<f64>,
    pub(crate) docker: Option<f64>,
    pub(crate) goal: Option<Goal>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        Some(self.ours? / self.docker.filter(|docker| *docker > 0.0)?)
    }

    /// None without a goal or without the figures it speaks of.
    fn reached(&self) -> Option<bool> {
        match self.goal? {
            Goal::Ratio(limit) => Some(self.ratio()? <= limit),
            Goal::Value(limit) => Some(self.ours? <= limit),
        }
    }

    fn cells(&self) -> [String; 6] {
        let figure = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2} {}", self.unit));
        let ratio = self.ratio().map_or("–".to_owned(), |ratio| {
            if ratio < 1.0 { format!("1/{:.1}", 1.0 / ratio) } else { format!("{ratio:.1}") }
        });
        let goal = match self.goal {
            None => String::new(),
            Some(Goal::Ratio(limit)) => format!("≤ 1/{:.0}", 1.0 / limit),
            Some(Goal::Value(limit)) => format!("≤ {limit} {}", self.unit),
        };
        let reached = self.reached().map_or("", |reached| if reached { "yes" } else { "NO" });
        [self.label.clone(), figure(self.ours), figure(self.docker), ratio, goal, reached.to_owned()]
    }

    fn json(&self) -> Value {
        let goal = match self.goal {
            None => Value::Null,
            Some(Goal::Ratio(limit)) => json!({ "ratio_at_most": limit }),
            Some(Goal::Value(limit)) => json!({ "at_most": limit }),
        };
        json!({
            "measure": self.label, "unit": self.unit, "ours": self.ours, "docker": self.docker,
            "ratio": self.ratio(), "goal": goal, "reached": self.reached(),
        })
    }
}

/// Nearest-rank percentile; none of an empty set.
pub(crate) fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The rows as aligned text: the label to the left, figures to the right.
pub(crate) fn table(rows: &[Row]) -> String {
    let head = ["", "kubelet", "docker", "ratio", "goal", "reached"].map(String::from);
    let lines: Vec<[String; 6]> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for cells in &lines {
        let mut line = format!("{:<width$}", cells[0], width = widths[0]);
        for (cell, width) in cells.iter().zip(widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

pub(crate) fn json(machine: &str, rows: &[Row]) -> Value {
    json!({ "machine": machine, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, docker: Option<f64>, goal: Goal) -> Row {
        Row { label: "x".into(), unit: "ms", ours: Some(ours), docker, goal: Some(goal) }
    }

    #[test]
    fn goals_are_judged_by_ratio_or_by_value() {
        assert_eq!(row(10.0, Some(80.0), Goal::Ratio(1.0 / 8.0)).reached(), Some(true));
        assert_eq!(row(10.0, Some(79.0), Goal::Ratio(1.0 / 8.0)).reached(), Some(false));
        assert_eq!(row(10.0, None, Goal::Ratio(1.0 / 8.0)).reached(), None);
        assert_eq!(row(15.0, None, Goal::Value(15.0)).reached(), Some(true));
        assert_eq!(row(15.1, None, Goal::Value(15.0)).reached(), Some(false));
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=30).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50), Some(15.0));
        assert_eq!(percentile(&values, 99), Some(30.0));
        assert_eq!(percentile(&[], 50), None);
        assert_eq!(percentile(&[7.0], 1), Some(7.0));
    }

    #[test]
    fn columns_are_aligned() {
        let text = table(&[row(10.0, Some(80.0), Goal::Ratio(1.0 / 8.0)), row(1.0, None, Goal::Value(15.0))]);
        let ends: Vec<_> = text.lines().skip(1).map(|line| line.chars().count()).collect();
        assert_eq!(ends[0], ends[1], "{text}");
        assert!(text.contains("1/8.0"), "{text}");
    }
}
