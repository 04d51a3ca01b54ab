//! The table: one row a measure, one column a way to run workloads; ours beside their ratio to Docker's, and the goal.

use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// A way to run workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Column {
    /// The kubelet with its own engine
    Embedded,
    /// The kubelet with a dockerd
    DockerThroughUs,
    /// The kubelet with a containerd
    ContainerdThroughUs,
    /// Docker by itself: `docker run -d`
    DockerRun,
}

impl Column {
    pub(crate) const ALL: [Column; 4] =
        [Column::Embedded, Column::DockerThroughUs, Column::ContainerdThroughUs, Column::DockerRun];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Column::Embedded => "embedded",
            Column::DockerThroughUs => "docker-through-us",
            Column::ContainerdThroughUs => "containerd-through-us",
            Column::DockerRun => "docker-run",
        }
    }
}

/// What the embedded engine's figure shall be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// Divided by Docker's it is at most this.
    Ratio(f64),
    /// It is at most this, in the row's unit.
    Value(f64),
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) unit: &'static str,
    /// In the order of [`Column::ALL`]; none where there is nothing to measure or nothing was.
    pub(crate) figures: [Option<f64>; 4],
    pub(crate) goal: Option<Goal>,
}

impl Row {
    fn figure(&self, column: Column) -> Option<f64> {
        self.figures[column as usize]
    }

    fn ratio(&self, column: Column) -> Option<f64> {
        Some(self.figure(column)? / self.figure(Column::DockerRun).filter(|docker| *docker > 0.0)?)
    }

    /// None without a goal or without the figures it speaks of.
    fn reached(&self) -> Option<bool> {
        match self.goal? {
            Goal::Ratio(limit) => Some(self.ratio(Column::Embedded)? <= limit),
            Goal::Value(limit) => Some(self.figure(Column::Embedded)? <= limit),
        }
    }

    fn cells(&self, shape: &Shape) -> Vec<String> {
        let mut cells = vec![self.label.clone()];
        for &column in &shape.columns {
            cells.push(self.figure(column).map_or("–".to_owned(), |value| format!("{value:.2} {}", self.unit)));
            if shape.has_ratio(column) {
                cells.push(self.ratio(column).map_or("–".to_owned(), |ratio| {
                    if ratio > 0.0 && ratio < 1.0 { format!("1/{:.1}", 1.0 / ratio) } else { format!("{ratio:.1}") }
                }));
            }
        }
        if shape.goals {
            cells.push(match self.goal {
                None => String::new(),
                Some(Goal::Ratio(limit)) => format!("≤ 1/{:.0}", 1.0 / limit),
                Some(Goal::Value(limit)) => format!("≤ {limit} {}", self.unit),
            });
            cells.push(self.reached().map_or("", |reached| if reached { "yes" } else { "NO" }).to_owned());
        }
        cells
    }

    fn json(&self) -> Value {
        let goal = match self.goal {
            None => Value::Null,
            Some(Goal::Ratio(limit)) => json!({ "ratio_at_most": limit }),
            Some(Goal::Value(limit)) => json!({ "at_most": limit }),
        };
        let by_name = |of: &dyn Fn(Column) -> Option<f64>| -> Map<String, Value> {
            Column::ALL.iter().map(|column| (column.name().to_owned(), json!(of(*column)))).collect()
        };
        json!({
            "measure": self.label, "unit": self.unit,
            "figures": by_name(&|column| self.figure(column)), "ratios": by_name(&|column| self.ratio(column)),
            "goal": goal, "reached": self.reached(),
        })
    }
}

/// What of the table there is to show.
struct Shape {
    columns: Vec<Column>,
    goals: bool,
}

impl Shape {
    fn of(rows: &[Row]) -> Shape {
        let measured = |column: &Column| rows.iter().any(|row| row.figure(*column).is_some());
        Shape {
            columns: Column::ALL.into_iter().filter(measured).collect(),
            goals: rows.iter().any(|row| row.reached().is_some()),
        }
    }

    fn has_ratio(&self, column: Column) -> bool {
        column != Column::DockerRun && self.columns.contains(&Column::DockerRun)
    }

    fn head(&self) -> Vec<String> {
        let mut cells = vec![String::new()];
        for &column in &self.columns {
            cells.push(column.name().to_owned());
            if self.has_ratio(column) {
                cells.push("ratio".to_owned());
            }
        }
        if self.goals {
            cells.extend(["goal".to_owned(), "reached".to_owned()]);
        }
        cells
    }
}

/// Nearest-rank percentile; none of an empty set.
pub(crate) fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The rows as aligned text: the label to the left, figures to the right. Columns without a figure are left out.
pub(crate) fn table(rows: &[Row]) -> String {
    let shape = Shape::of(rows);
    let mut lines = vec![shape.head()];
    lines.extend(rows.iter().map(|row| row.cells(&shape)));
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for cells in &lines {
        let mut line = format!("{:<width$}", cells[0], width = widths[0]);
        for (cell, width) in cells.iter().zip(&widths).skip(1) {
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
        Row { label: "x".into(), unit: "ms", figures: [Some(ours), None, None, docker], goal: Some(goal) }
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
    fn columns_stand_in_their_order() {
        assert!(Column::ALL.iter().enumerate().all(|(at, column)| *column as usize == at));
        let names = Column::ALL.map(|column| column.to_possible_value().unwrap().get_name().to_owned());
        assert_eq!(names, Column::ALL.map(Column::name));
    }

    #[test]
    fn columns_are_aligned() {
        let text = table(&[row(10.0, Some(80.0), Goal::Ratio(1.0 / 8.0)), row(1.0, None, Goal::Value(15.0))]);
        let ends: Vec<_> = text.lines().skip(1).map(|line| line.chars().count()).collect();
        assert_eq!(ends[0], ends[1], "{text}");
        assert!(text.contains("1/8.0"), "{text}");
    }

    #[test]
    fn a_column_alone_has_no_ratios() {
        let alone = Row { label: "x".into(), unit: "s", figures: [None, Some(2.0), None, None], goal: None };
        let words: Vec<_> = alone.cells(&Shape::of(std::slice::from_ref(&alone)));
        assert_eq!(words, ["x", "2.00 s"]);
    }
}
