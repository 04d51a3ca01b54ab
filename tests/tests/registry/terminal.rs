//! What `kubelet image pull` shows a person, and who reads lines.

use crate::{app, finish, machine, random_layer};
use e2e::dice::Dice;
use e2e::oci::Image;
use e2e::registry::{self, Access, Proxy, Registry, Wire};
use e2e::{Machine, PATIENCE};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

/// A progress that a person sees, in a pipe: each layer, and in the end the image.
#[test]
fn a_pull_tells_what_it_does() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let image = app("told");
    registry.put("shop/app:1", &image);
    // All but the last byte: a layer that is done is told before the pull ends, however fast it is.
    let proxy = Proxy::start(&registry);
    proxy.stop_after(image.blobs().map(|blob| blob.bytes.len() as u64).sum::<u64>() - 1);
    let name = format!("{}/shop/app:1", proxy.host());
    let machine = machine(&[]);
    let mut command = Command::new(e2e::machine::kubelet_binary());
    command.args(["image", "pull", &format!("--run-dir={}", machine.run_dir.display()), &name]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let shown = pieces(child.stderr.take().expect("a pipe"));
    let mut progress = String::new();
    let mut healed = false;
    loop {
        let piece = shown.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nothing more after {progress:?}"));
        if piece.is_empty() {
            break;
        }
        progress.push_str(&String::from_utf8_lossy(&piece));
        if !healed && progress.contains("\nlayer ") {
            healed = true;
            proxy.heal();
        }
    }
    let output = child.wait_with_output().expect("waited");
    assert!(output.status.success(), "{output:?} {progress}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{name} {}\n", image.id()));
    assert!(!progress.contains(['\u{1b}', '\r']), "a pipe is given no bars: {progress:?}");
    assert!(progress.starts_with(&format!("pulling {name}\n")), "{progress}");
    for layer in &image.layers {
        let line = format!("\nlayer {}: done, ", &layer.blob.hex()[..12]);
        assert_eq!(progress.matches(&line).count(), 1, "{line} in {progress}");
    }
    let quiet = machine.try_cli(&["image", "pull", "--quiet", &name]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
    finish(machine);
}

/// On a terminal a bar moves and ends, and takes one line however narrow it is.
#[test]
fn bars_on_terminals_wide_and_narrow() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let machine = machine(&[]);
    for columns in [80, 20] {
        let proxy = Proxy::start(&registry);
        let layer = random_layer(&mut dice, &columns.to_string(), 512 << 10);
        let image = Image::new(vec![layer.clone()]);
        registry.put(&format!("shop/{columns}:1"), &image);
        let name = format!("{}/shop/{columns}:1", proxy.host());
        proxy.stop_after(layer.blob.bytes.len() as u64 / 2);
        let mut terminal = Terminal::pull(&machine, columns, &name);
        terminal.until("a bar that is on its way", |screen| {
            screen.row("total").and_then(percent).is_some_and(|percent| (1..100).contains(&percent))
        });
        proxy.heal();
        terminal.until("the end", |screen| screen.is_over);
        assert!(terminal.child.wait().expect("waited").success(), "{:#?}", terminal.screen.rows);
        let screen = &terminal.screen;
        // Each in a row of its own, and nothing of what it was before.
        let (name, result) = (format!("pulling {name}"), format!("{name} {}", image.id()));
        let texts = [&name, &result].map(|text| text.len().div_ceil(columns));
        assert_eq!(
            screen.rows.iter().filter(|row| !row.trim_end().is_empty()).count(),
            texts[0] + 2 + texts[1],
            "{screen:#?}"
        );
        assert_eq!(screen.row("total").and_then(percent), Some(100), "{screen:#?}");
        let bar = screen.row(&layer.blob.hex()[..12]).expect("a bar of the layer");
        assert!(bar.ends_with("100 %") || bar.contains("] done, "), "{bar}");
    }
    finish(machine);
}

/// Of a bar's row.
fn percent(row: &str) -> Option<u32> {
    row.split(" %").next()?.rsplit(' ').next()?.parse().ok()
}

/// `kubelet image pull` in a terminal, which `script` gives it.
struct Terminal {
    child: Child,
    shown: Receiver<Vec<u8>>,
    screen: Screen,
}

impl Terminal {
    fn pull(machine: &Machine, columns: usize, image: &str) -> Terminal {
        let pull = format!(
            "stty rows 24 cols {columns}; {} image pull --run-dir={} {image}",
            e2e::machine::kubelet_binary().display(),
            machine.run_dir.display()
        );
        let mut command = Command::new("script");
        command.args(["-qec", &pull, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("script");
        let shown = pieces(child.stdout.take().expect("a pipe"));
        Terminal { child, shown, screen: Screen { columns, ..Screen::default() } }
    }

    #[track_caller]
    fn until(&mut self, what: &str, wanted: impl Fn(&Screen) -> bool) {
        while !wanted(&self.screen) {
            assert!(!self.screen.is_over, "{what}: not in {:#?}", self.screen.rows);
            let Ok(piece) = self.shown.recv_timeout(PATIENCE) else {
                panic!("{what}: nothing more within {PATIENCE:?}: {:#?}", self.screen.rows)
            };
            self.screen.is_over = piece.is_empty();
            // Names, figures and control sequences: no character has more than one byte.
            piece.iter().for_each(|byte| self.screen.show(char::from(*byte)));
        }
    }
}

/// What comes out of a stream, as it comes; an empty piece at its end.
fn pieces(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (pieces, shown) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read) = stream.read(&mut buffer) {
            if pieces.send(buffer[..read].to_vec()).is_err() || read == 0 {
                return;
            }
        }
    });
    shown
}

/// What a terminal shows that knows as much as bars need.
#[derive(Debug, Default)]
struct Screen {
    columns: usize,
    rows: Vec<String>,
    /// Row and column of the cursor.
    at: (usize, usize),
    /// A control sequence that has begun.
    escape: Option<String>,
    /// Nothing more comes.
    is_over: bool,
}

impl Screen {
    /// The row that begins so.
    fn row(&self, beginning: &str) -> Option<&str> {
        self.rows.iter().map(|row| row.trim_end()).find(|row| row.starts_with(beginning))
    }

    fn show(&mut self, shown: char) {
        match (shown, self.escape.take()) {
            ('\u{1b}', _) => self.escape = Some(String::new()),
            ('A'..='Z' | 'a'..='z', Some(sequence)) => self.control(&sequence, shown),
            (_, Some(sequence)) => self.escape = Some(sequence + &shown.to_string()),
            ('\r', None) => self.at.1 = 0,
            ('\n', None) => self.at.0 += 1,
            (_, None) => self.put(shown),
        }
    }

    fn put(&mut self, shown: char) {
        if self.at.1 == self.columns {
            self.at = (self.at.0 + 1, 0);
        }
        let row = self.current();
        let (_, column) = self.at;
        let row = &mut self.rows[row];
        row.replace_range(column..(column + 1).min(row.len()), &shown.to_string());
        self.at.1 += 1;
    }

    /// The index of the cursor's row, which reaches to the cursor.
    fn current(&mut self) -> usize {
        let (row, column) = self.at;
        self.rows.resize(self.rows.len().max(row + 1), String::new());
        let text = &mut self.rows[row];
        text.extend(std::iter::repeat_n(' ', column.saturating_sub(text.len())));
        row
    }

    fn control(&mut self, sequence: &str, command: char) {
        let number = || sequence.trim_start_matches('[').parse().unwrap_or(1);
        match command {
            'A' => self.at.0 -= number(),
            'B' => self.at.0 += number(),
            'K' => {
                let row = self.current();
                self.rows[row].clear();
            }
            _ => panic!("a terminal is told {sequence}{command}, which this one does not know"),
        }
    }
}
