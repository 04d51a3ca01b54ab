//! How far a pull is, for a person at a terminal or for who reads lines.

use super::{human_size, short};
use crate::commands::printable;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rustix::termios::{isatty, tcgetwinsize};
use server::{ImagePull, LayerPull, LayerState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Between two lines that only say how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// From so many columns on a line looks so: it never takes two rows, and what does not fit of a message is cut off.
const FORMS: [(u16, &str); 3] =
    [(42, "{prefix:12}  [{bar:24}] {wide_msg}"), (18, "{prefix:12} {percent:>3} %"), (0, "{percent:>3}")];
/// Columns of a terminal that does not tell how many it has.
const USUAL_COLUMNS: u16 = 80;
/// Rows of a terminal that does not tell how many it has.
const USUAL_ROWS: u16 = 24;
/// Rows that are no layer's: the name, the total, the cursor's.
const OTHER_ROWS: usize = 3;

pub(super) enum Progress {
    Quiet,
    Bars(Bars),
    Lines(Lines),
}

impl Progress {
    pub(super) fn on_stderr() -> Self {
        match isatty(std::io::stderr()) {
            true => Self::Bars(Bars::new()),
            false => Self::Lines(Lines::default()),
        }
    }

    pub(super) fn show(&mut self, pull: &ImagePull) {
        match self {
            Self::Quiet => {}
            Self::Bars(bars) => bars.show(pull),
            Self::Lines(lines) => lines.show(pull, Instant::now()).iter().for_each(|line| eprintln!("{line}")),
        }
    }

    /// The image is there, and so is each of its layers.
    pub(super) fn finish(&mut self) {
        match self {
            Self::Quiet => {}
            Self::Bars(bars) => bars.finish(),
            Self::Lines(lines) => lines.finish().iter().for_each(|line| eprintln!("{line}")),
        }
    }

    /// Makes room for what went wrong.
    pub(super) fn clear(&mut self) {
        if let Self::Bars(bars) = self {
            // A terminal that cannot be written to shows no bars either.
            let _ = bars.all.clear();
        }
    }
}

/// A bar for each layer below one for all of them.
pub(super) struct Bars {
    all: MultiProgress,
    total: Option<ProgressBar>,
    layers: BTreeMap<String, ProgressBar>,
    last: Option<ImagePull>,
}

impl Bars {
    fn new() -> Self {
        Self { all: MultiProgress::new(), total: None, layers: BTreeMap::new(), last: None }
    }

    fn show(&mut self, pull: &ImagePull) {
        let total = self.total.get_or_insert_with(|| {
            let bar = self.all.add(bar("total"));
            bar.println(format!("pulling {}", printable(&pull.reference)));
            bar
        });
        total.set_length(pull.total_bytes.unwrap_or(1).max(1));
        total.set_position(pull.done_bytes);
        total.set_message(so_far(pull));
        let crowded = pull.layers.len() + OTHER_ROWS > rows();
        for layer in &pull.layers {
            self.show_layer(layer, crowded);
        }
        self.last = Some(pull.clone());
    }

    /// Where there are more layers than rows, only those that are under way have one.
    fn show_layer(&mut self, layer: &LayerPull, crowded: bool) {
        let under_way = layer.state == LayerState::Fetching;
        if crowded && !under_way {
            if let Some(bar) = self.layers.remove(&layer.digest) {
                bar.finish_and_clear();
            }
            return;
        }
        let all = &self.all;
        let bar = self.layers.entry(layer.digest.clone()).or_insert_with(|| all.add(bar(&short(&layer.digest))));
        bar.set_length(layer.total_bytes.max(1));
        bar.set_message(state(layer));
        match layer.state {
            LayerState::Waiting | LayerState::Fetching => bar.set_position(layer.done_bytes),
            LayerState::Present | LayerState::Done => bar.set_position(layer.total_bytes.max(1)),
        }
    }

    fn finish(&mut self) {
        if let Some(last) = self.last.take() {
            self.show(&at_the_end(last));
        }
        // It may have been there all along, or come from a runtime that gives no figures.
        if let Some(total) = self.total.as_ref().filter(|total| total.position() == 0) {
            total.set_position(1);
            total.set_message("done");
        }
        self.layers.values().chain(&self.total).for_each(ProgressBar::abandon);
    }
}

fn bar(name: &str) -> ProgressBar {
    let columns = tcgetwinsize(std::io::stderr()).map(|size| size.ws_col).ok().filter(|columns| *columns > 0);
    let style = ProgressStyle::with_template(form(columns.unwrap_or(USUAL_COLUMNS)))
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style.progress_chars("=> ")).with_prefix(name.to_owned())
}

/// The fullest of the forms that fit.
fn form(columns: u16) -> &'static str {
    FORMS.iter().find(|(from, _)| columns >= *from).map_or("", |(_, form)| *form)
}

fn rows() -> usize {
    let told = tcgetwinsize(std::io::stderr()).map(|size| size.ws_row).ok().filter(|rows| *rows > 0);
    usize::from(told.unwrap_or(USUAL_ROWS))
}

/// A line for each layer that is there, and from time to time one that says how far it is.
#[derive(Default)]
pub(super) struct Lines {
    told: BTreeSet<String>,
    said: Option<Instant>,
    last: Option<ImagePull>,
}

impl Lines {
    fn show(&mut self, pull: &ImagePull, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        if self.said.is_none() {
            lines.push(format!("pulling {}", printable(&pull.reference)));
            self.said = Some(now);
        }
        let over = |layer: &&LayerPull| matches!(layer.state, LayerState::Present | LayerState::Done);
        for layer in pull.layers.iter().filter(over) {
            if self.told.insert(layer.digest.clone()) {
                lines.push(format!("layer {}: {}", short(&layer.digest), state(layer)));
            }
        }
        if self.said.is_none_or(|said| now.duration_since(said) >= SAY_EVERY) {
            lines.push(so_far(pull));
            self.said = Some(now);
        }
        self.last = Some(pull.clone());
        lines
    }

    fn finish(&mut self) -> Vec<String> {
        let now = Instant::now();
        self.said = Some(now);
        self.last.take().map(|last| self.show(&at_the_end(last), now)).unwrap_or_default()
    }
}

/// What was told last may be older than the end.
fn at_the_end(mut pull: ImagePull) -> ImagePull {
    pull.done_bytes = pull.total_bytes.unwrap_or(pull.done_bytes);
    for layer in pull.layers.iter_mut().filter(|layer| layer.state != LayerState::Present) {
        layer.state = LayerState::Done;
        layer.done_bytes = layer.total_bytes;
    }
    pull
}

fn so_far(pull: &ImagePull) -> String {
    match (pull.percent(), pull.total_bytes) {
        (Some(percent), Some(total)) => {
            format!("{percent} %, {} of {}", human_size(pull.done_bytes), human_size(total))
        }
        (_, Some(_)) => "nothing to fetch".to_owned(),
        (_, None) => "under way".to_owned(),
    }
}

fn state(layer: &LayerPull) -> String {
    let total = human_size(layer.total_bytes);
    match layer.state {
        LayerState::Waiting => format!("waiting, {total}"),
        LayerState::Fetching => format!("{} of {total}", human_size(layer.done_bytes)),
        LayerState::Present => "there already".to_owned(),
        LayerState::Done => format!("done, {total}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digest: &str, done_bytes: u64, state: LayerState) -> LayerPull {
        LayerPull { digest: format!("sha256:{digest}"), done_bytes, total_bytes: 2_000_000, state }
    }

    fn pull(total_bytes: Option<u64>, layers: Vec<LayerPull>) -> ImagePull {
        let done_bytes = layers.iter().map(|layer| layer.done_bytes).sum();
        ImagePull { reference: "docker.io/library/a\u{1b}:1".into(), done_bytes, total_bytes, layers }
    }

    #[test]
    fn a_pipe_gets_a_line_for_each_layer_and_little_else() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lines.show(&pull(None, vec![]), at(0)), ["pulling docker.io/library/a\u{fffd}:1"]);
        use LayerState::{Done, Fetching, Present, Waiting};
        let begun = vec![layer("aa", 0, Present), layer("bb", 500_000, Fetching), layer("cc", 0, Waiting)];
        let begun = pull(Some(4_000_000), begun);
        assert_eq!(lines.show(&begun, at(4)), ["layer aa: there already"]);
        assert_eq!(lines.show(&begun, at(5)), ["12 %, 500.0 kB of 4.0 MB"]);
        assert!(lines.show(&begun, at(9)).is_empty());
        let further = vec![layer("aa", 0, Present), layer("bb", 2_000_000, Done), layer("cc", 1_000_000, Fetching)];
        let further = pull(Some(4_000_000), further);
        assert_eq!(lines.show(&further, at(10)), ["layer bb: done, 2.0 MB", "75 %, 3.0 MB of 4.0 MB"]);
        assert_eq!(lines.finish(), ["layer cc: done, 2.0 MB"]);
    }

    #[test]
    fn the_narrower_the_terminal_the_shorter_the_line() {
        let words = |columns| ["prefix", "bar", "msg", "percent"].map(|word| form(columns).contains(word));
        assert_eq!(words(80), [true, true, true, false]);
        assert_eq!(words(42), words(80));
        assert_eq!(words(41), [true, false, false, true]);
        assert_eq!(words(18), words(41));
        assert_eq!(words(17), [false, false, false, true]);
        assert_eq!(words(1), words(17));
    }

    #[test]
    fn how_far_it_is() {
        assert_eq!(so_far(&pull(None, vec![])), "under way");
        assert_eq!(so_far(&pull(Some(0), vec![])), "nothing to fetch");
        assert_eq!(state(&layer("a", 1_000_000, LayerState::Fetching)), "1.0 MB of 2.0 MB");
        assert_eq!(state(&layer("a", 0, LayerState::Waiting)), "waiting, 2.0 MB");
    }
}
