//! Progress on standard error: bars on a terminal, lines elsewhere, JSON lines for programs.

use super::event::{Event, Fetched, Observer, Outline, Phase, Plan};
use super::human_bytes;
use super::time::human_seconds;
use crate::words::words;
use anyhow::Result;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

words!(
    /// How progress is shown.
    #[derive(Default)]
    Mode, "kind of progress", {
        /// Bars on a terminal, lines elsewhere.
        #[default]
        Auto = "auto",
        Bar = "bar",
        Plain = "plain",
        /// One JSON object for each event, see [`Event::json`].
        Json = "json",
        /// Warnings and errors only.
        None = "none",
    }
);

words!(
    /// When text for people is coloured.
    #[derive(Default)]
    Color, "colour mode", {
        /// On a terminal, unless NO_COLOR is set.
        #[default]
        Auto = "auto",
        Always = "always",
        Never = "never",
    }
);

impl Color {
    /// Whether to colour what goes to a stream that is, or is not, a terminal. <https://no-color.org>: any value but the
    /// empty one turns colours off.
    pub fn on(self, terminal: bool) -> bool {
        let plain = || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => terminal && !plain() && !dumb(),
        }
    }
}

/// Who listens to a run. `quiet` leaves errors only, `verbose` adds what was planned, how long stages took and every file.
pub fn renderer(mode: Mode, quiet: bool, verbose: bool, color: Color) -> Box<dyn Observer> {
    let terminal = stderr().is_terminal();
    let words = Style { color: color.on(terminal), quiet, verbose };
    match mode {
        Mode::Json => Box::new(Json { quiet, job: None }),
        _ if quiet => Box::new(PlainProgress::new(stderr(), words, false)),
        Mode::None => Box::new(PlainProgress::new(stderr(), words, false)),
        Mode::Bar => Box::new(BarProgress::new(words)),
        Mode::Auto if terminal => Box::new(BarProgress::new(words)),
        Mode::Auto | Mode::Plain => Box::new(PlainProgress::new(stderr(), words, true)),
    }
}

/// Writes a line to standard error. A closed one does not stop a run.
fn line(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// Events as JSON lines.
struct Json {
    quiet: bool,
    /// The job of a batch that events are about.
    job: Option<String>,
}

impl Observer for Json {
    fn event(&mut self, event: &Event) -> Result<()> {
        if let Event::Job { id, .. } = event {
            self.job = Some(id.clone());
        }
        if !self.quiet || matches!(event, Event::Error { .. }) {
            let mut object = event.json();
            if let Some(job) = &self.job {
                object["job"] = job.as_str().into();
            }
            line(&object.to_string());
        }
        Ok(())
    }
}

/// How events are put in words.
#[derive(Clone, Copy)]
struct Style {
    color: bool,
    quiet: bool,
    verbose: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Messages that are shown with any kind of progress; none for the other events.
    fn message(self, event: &Event) -> Option<String> {
        match event {
            Event::Error { message, .. } => Some(format!("{} {message}", self.paint("1;31", "error:"))),
            Event::Warning(message) if !self.quiet => Some(format!("{} {message}", self.paint("1;33", "warning:"))),
            Event::Plan(plan) if self.verbose && !self.quiet => Some(describe(plan)),
            Event::Checkpoint { phase, index, of, .. } if self.verbose && !self.quiet => {
                Some(format!("checkpoint: {} {index}/{of} is safe", phase.name()))
            }
            Event::Preview { path, index, .. } if self.verbose && !self.quiet => {
                Some(format!("preview of step {} in {}", index + 1, path.display()))
            }
            Event::Saved { kind, path } if self.verbose && !self.quiet => {
                Some(format!("saved {kind} {}", path.display()))
            }
            _ => None,
        }
    }
}

/// The plan in a line. The seed is always told: without it a lucky video could not be made again.
fn summary(plan: &Plan) -> String {
    let Outline { model, width, height, frames, seed, .. } = &plan.outline;
    format!("{model}: {width}x{height}, {frames} {}, seed {seed}", if *frames == 1 { "frame" } else { "frames" })
}

/// A rate with at most two decimals.
pub fn rounded(fps: f64) -> String {
    let text = format!("{fps:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The plan in a few lines.
fn describe(plan: &Plan) -> String {
    let Plan { outline, windows, memory, .. } = plan;
    let Outline { model, width, height, frames, fps, steps, seed, device, dtype, threads, .. } = outline;
    let prompts = outline.prompts.iter().map(|prompt| format!("\n  prompt {prompt:?}")).collect::<String>();
    format!(
        "{model} on {device} in {dtype}, {threads} threads, about {}\n  {width}x{height}, {frames} frames at {} per \
         second, {} latent frames in {windows} window{}, {steps} steps, seed {seed}{prompts}",
        human_bytes(*memory),
        rounded(*fps),
        outline.latent_frames,
        if *windows == 1 { "" } else { "s" },
    )
}

/// Progress as plain lines; with `stages` false only messages.
struct PlainProgress<W> {
    out: W,
    words: Style,
    stages: bool,
    stage: Option<(Phase, Instant)>,
    told: Option<Instant>,
}

/// Steps and chunks are reported no more often than this.
const PAUSE: Duration = Duration::from_secs(2);

impl<W: Write> PlainProgress<W> {
    fn new(out: W, words: Style, stages: bool) -> Self {
        Self { out, words, stages, stage: None, told: None }
    }

    fn say(&mut self, text: &str) {
        // a closed standard error does not stop a run
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    /// Whether part `index` of `of` is worth a line: the last one is, others when the last line is some time ago.
    fn due(&mut self, index: usize, of: usize) -> bool {
        let due = index + 1 == of || self.told.is_none_or(|told| told.elapsed() >= PAUSE);
        if due {
            self.told = Some(Instant::now());
        }
        due
    }

    fn end_stage(&mut self) {
        if let (Some((phase, since)), true) = (self.stage.take(), self.words.verbose) {
            let text = format!("{} took {}", phase.name(), human_seconds(since.elapsed().as_secs_f64()));
            self.say(&text);
        }
    }
}

impl<W: Write + Send> Observer for PlainProgress<W> {
    fn event(&mut self, event: &Event) -> Result<()> {
        if let Some(message) = self.words.message(event) {
            self.say(&message);
        }
        if !self.stages {
            return Ok(());
        }
        match event {
            Event::Plan(plan) if !self.words.verbose => self.say(&summary(plan)),
            Event::Job { id, index, of } => self.say(&format!("job {}/{of}: {id}", index + 1)),
            Event::Phase { phase, of, what } => {
                self.end_stage();
                self.stage = Some((*phase, Instant::now()));
                self.told = None;
                self.say(&stage(*phase, *of, what));
            }
            Event::Step { index, of, seconds, eta, .. } if self.due(*index, *of) => {
                let (done, pace) = (index + 1, human_seconds(*seconds));
                self.say(&format!("step {done}/{of}: {pace}, {} left", human_seconds(*eta)));
            }
            Event::Chunk { phase, index, of } if self.due(*index, *of) => {
                self.say(&format!("{} {}/{of}", phase.name(), index + 1));
            }
            Event::Download(fetched) => {
                let ends = fetched.file.is_none();
                if ends || self.told.is_none_or(|told| told.elapsed() >= PAUSE) {
                    self.told = Some(Instant::now());
                    self.say(&fetched.to_string());
                }
            }
            Event::Saved { .. } | Event::Error { .. } => self.end_stage(),
            _ => {}
        }
        Ok(())
    }
}

impl fmt::Display for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { model, to, files, file, bytes, of, .. } = self;
        let files = format!("{files} file{}", if *files == 1 { "" } else { "s" });
        match file {
            None if self.done => write!(f, "downloaded {model}: {files}, {}", human_bytes(*bytes)),
            None => write!(f, "download {model}: {files}, {}, to {}", human_bytes(*of), to.display()),
            Some(_) => write!(f, "download {} of {}{}", human_bytes(*bytes), human_bytes(*of), self.pace()),
        }
    }
}

impl Fetched {
    /// `, 1.2 MB/s, 4 s left` as far as it is known.
    fn pace(&self) -> String {
        let rate = self.rate.map(|rate| format!(", {}/s", human_bytes(rate as u64)));
        let eta = self.eta.map(|eta| format!(", {} left", human_seconds(eta)));
        [rate, eta].into_iter().flatten().collect()
    }
}

/// The beginning of a stage: `load transformer`, `denoise in 50 steps`.
fn stage(phase: Phase, of: usize, what: &str) -> String {
    let mut text = phase.name().to_owned();
    if !what.is_empty() {
        text = format!("{text} {what}");
    }
    match (phase, of) {
        (_, 0) => text,
        (_, 1) => format!("{text} in one part"),
        (Phase::Denoise, of) => format!("{text} in {of} steps"),
        (_, of) => format!("{text} in {of} parts"),
    }
}

/// Progress as bars, one for each stage; finished ones stay.
struct BarProgress {
    words: Style,
    bar: Option<ProgressBar>,
    since: Instant,
}

impl BarProgress {
    fn new(words: Style) -> Self {
        Self { words, bar: None, since: Instant::now() }
    }

    fn begin(&mut self, phase: Phase, of: usize, what: &str) {
        self.bar(phase.name(), of as u64, "{pos}/{len}", what);
    }

    fn bar(&mut self, name: &'static str, of: u64, position: &str, what: &str) {
        self.finish();
        let columns = Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        let template = template(of, position, columns, self.words.color);
        let style =
            ProgressStyle::with_template(&template).map(|style| style.progress_chars("##-").tick_chars("-\\|/ "));
        let bar = ProgressBar::with_draw_target((of > 0).then_some(of), ProgressDrawTarget::stderr());
        // a bar without its style is still a bar
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name);
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = Some(bar);
        self.since = Instant::now();
    }

    /// Leaves the stage's bar with the time it took.
    fn finish(&mut self) {
        let Some(bar) = self.bar.take() else { return };
        let took = human_seconds(self.since.elapsed().as_secs_f64());
        let what = match bar.length() {
            None => bar.message(), // what was loaded
            Some(_) => String::new(),
        };
        bar.disable_steady_tick();
        bar.abandon_with_message(format!("{what} {took}").trim().to_owned());
    }

    /// A bar of bytes.
    fn download(&mut self, fetched: &Fetched) {
        match (&fetched.file, fetched.done) {
            (None, false) => {
                line(&fetched.to_string());
                self.bar("download", fetched.of, "{bytes}/{total_bytes}", "");
            }
            (None, true) => self.finish(),
            (Some(_), _) => {
                let Some(bar) = &self.bar else { return };
                bar.set_position(fetched.bytes);
                bar.set_message(fetched.pace().trim_start_matches(", ").to_owned());
            }
        }
    }

    fn advance(&self, index: usize, message: Option<String>) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(index as u64 + 1);
        if let Some(message) = message {
            bar.set_message(message);
        }
    }
}

/// The look of a bar of `of` parts (0: how many is not known) in so many columns: what tells the time has its place, the bar
/// takes what is left, up to 32 columns.
fn template(of: u64, position: &str, columns: usize, color: bool) -> String {
    /// For the name, the position and the time.
    const WORDS: usize = 46;
    let width = columns.saturating_sub(WORDS).min(32);
    let bar = match (width, color) {
        (0..4, _) => String::new(),
        (_, true) => format!("{{bar:{width}.cyan/dim}} "),
        (_, false) => format!("{{bar:{width}}} "),
    };
    match of {
        0 => "{prefix:>8}  {spinner} {wide_msg}".to_owned(),
        _ => format!("{{prefix:>8}}  {bar}{position} {{wide_msg}}"),
    }
}

impl Observer for BarProgress {
    fn event(&mut self, event: &Event) -> Result<()> {
        if let Some(message) = self.words.message(event) {
            if matches!(event, Event::Error { .. }) {
                self.finish();
            }
            match &self.bar {
                Some(bar) => bar.suspend(|| line(&message)),
                None => line(&message),
            }
        }
        match event {
            Event::Plan(plan) if !self.words.verbose => line(&summary(plan)),
            Event::Job { id, index, of } => {
                self.finish();
                line(&format!("job {}/{of}: {id}", index + 1));
            }
            Event::Phase { phase, of, what } => self.begin(*phase, *of, what),
            Event::Step { index, seconds, eta, .. } => {
                let left = human_seconds(*eta);
                self.advance(*index, Some(format!("{seconds:.2} s/step, {left} left")));
            }
            Event::Chunk { index, .. } => self.advance(*index, None),
            Event::Download(fetched) => self.download(fetched),
            Event::Saved { .. } => self.finish(),
            _ => {}
        }
        Ok(())
    }
}

impl Drop for BarProgress {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: Style, stages: bool, events: &[Event]) -> Vec<String> {
        let mut out = Vec::new();
        let mut lines = PlainProgress::new(&mut out, words, stages);
        for event in events {
            lines.event(event).unwrap();
        }
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    fn events() -> Vec<Event> {
        let phase = |phase, of, what: &str| Event::Phase { phase, of, what: what.into() };
        let step = |index| Event::Step { index, of: 3, seconds: 1.5, eta: 4.25, peak_memory: Some(1) };
        vec![
            phase(Phase::Load, 0, "transformer"),
            Event::Warning("prompt 1 was cut".into()),
            phase(Phase::Denoise, 3, ""),
            step(0),
            step(1),
            step(2),
            phase(Phase::Decode, 1, ""),
            Event::Chunk { phase: Phase::Decode, index: 0, of: 1 },
            Event::Saved { kind: "video", path: "a.mp4".into() },
            Event::Error { code: 1, message: "disk full".into() },
        ]
    }

    const PLAIN: Style = Style { color: false, quiet: false, verbose: false };

    #[test]
    fn lines_tell_stages_and_do_not_flood() {
        assert_eq!(
            said(PLAIN, true, &events()),
            [
                "load transformer",
                "warning: prompt 1 was cut",
                "denoise in 3 steps",
                "step 1/3: 1.50 s, 4.25 s left",
                "step 3/3: 1.50 s, 4.25 s left",
                "decode in one part",
                "decode 1/1",
                "error: disk full",
            ]
        );
    }

    #[test]
    fn quiet_and_none_leave_messages_only() {
        assert_eq!(said(PLAIN, false, &events()), ["warning: prompt 1 was cut", "error: disk full"]);
        assert_eq!(said(Style { quiet: true, ..PLAIN }, false, &events()), ["error: disk full"]);
    }

    fn plan() -> Event {
        Event::Plan(Box::new(Plan {
            outline: Outline {
                model: "toyland".into(),
                prompts: vec!["a ball".into()],
                width: 144,
                height: 96,
                frames: 49,
                fps: 8.0,
                steps: 30,
                seed: 7,
                device: "cpu".into(),
                dtype: "f32".into(),
                threads: 2,
                latent_frames: 13,
            },
            windows: 1,
            memory: 400_000_000,
            output: "a.mp4".into(),
        }))
    }

    #[test]
    fn the_seed_is_always_told() {
        assert_eq!(said(PLAIN, true, &[plan()]), ["toyland: 144x96, 49 frames, seed 7"]);
        let verbose = said(Style { verbose: true, ..PLAIN }, true, &[plan()]);
        assert!(verbose[1].ends_with("13 latent frames in 1 window, 30 steps, seed 7"), "{verbose:?}");
    }

    #[test]
    fn verbose_tells_times_files_and_the_plan() {
        let mut events = events();
        events.insert(0, plan());
        let lines = said(Style { verbose: true, ..PLAIN }, true, &events);
        assert!(lines[0].starts_with("toyland on cpu in f32, 2 threads, about 400 MB"), "{lines:?}");
        assert_eq!(lines[2], "  prompt \"a ball\"");
        assert!(lines.iter().any(|line| line.starts_with("denoise took ")));
        assert!(lines.contains(&"saved video a.mp4".to_owned()));
    }

    #[test]
    fn colours_follow_the_wish() {
        let red = said(Style { color: true, ..PLAIN }, true, &[Event::Error { code: 1, message: "x".into() }]);
        assert_eq!(red, ["\u{1b}[1;31merror:\u{1b}[0m x"]);
        assert!(Color::Always.on(false) && !Color::Never.on(true) && !Color::Auto.on(false));
    }

    #[test]
    fn downloads_are_told_in_lines() {
        let begin = Fetched {
            model: "org/m".into(),
            to: "/cache".into(),
            files: 3,
            file: None,
            bytes: 0,
            of: 15_000_000,
            rate: None,
            eta: None,
            done: false,
        };
        let on =
            |bytes| Fetched { file: Some("vae/x".into()), bytes, rate: Some(2e6), eta: Some(5.0), ..begin.clone() };
        let end = Fetched { bytes: 15_000_000, done: true, ..begin.clone() };
        let events = [begin.clone(), on(5_000_000), on(6_000_000), end].map(Event::Download);
        assert_eq!(
            said(PLAIN, true, &events),
            ["download org/m: 3 files, 15 MB, to /cache", "downloaded org/m: 3 files, 15 MB",]
        );
        assert_eq!(on(5_000_000).to_string(), "download 5.0 MB of 15 MB, 2.0 MB/s, 5.00 s left");
    }

    /// A bar of a narrow terminal gives way to the words beside it.
    #[test]
    fn bars_fit_the_terminal() {
        for columns in [20, 40, 60, 80, 200] {
            let drawn = template(5, "{pos}/{len}", columns, false);
            let width =
                drawn.split_once("{bar:").map_or(0, |(_, rest)| rest.split_once('}').unwrap().0.parse().unwrap());
            assert!(width <= 32 && (width == 0 || width + 46 <= columns), "{columns}: {drawn}");
            assert_eq!(width == 32, columns >= 78, "{columns}: {drawn}");
            assert!(drawn.ends_with("{wide_msg}"), "{drawn}");
        }
    }

    #[test]
    fn words_round_trip() {
        for name in Mode::NAMES {
            assert_eq!(name.parse::<Mode>().unwrap().to_string(), *name);
        }
        for name in Color::NAMES {
            assert_eq!(name.parse::<Color>().unwrap().to_string(), *name);
        }
        assert!("bars".parse::<Mode>().unwrap_err().to_string().contains("bar, plain"));
    }
}
