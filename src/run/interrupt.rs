//! Ctrl-C, SIGTERM, and the signals by which schedulers announce the end of a job. While a run holds an [`InterruptGuard`], the
//! first signal only requests the end: the run finishes its step, saves and ends by itself. The second one, or the first without a
//! guard, removes unfinished files and ends the process at once.

use super::event::Event;
use super::exit::Code;
use anyhow::{Context, Result};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

static ATTENDED: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALLED: AtomicBool = AtomicBool::new(false);
static HINT: Mutex<Option<String>> = Mutex::new(None);
static DISCARD: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// While it exists, the first interruption only sets [`asked`].
#[derive(Debug)]
pub struct InterruptGuard(());

/// From now on the first interruption only sets [`asked`], which the caller checks.
pub fn attend() -> InterruptGuard {
    ATTENDED.store(true, Ordering::SeqCst);
    InterruptGuard(())
}

impl Drop for InterruptGuard {
    fn drop(&mut self) {
        ATTENDED.store(false, Ordering::SeqCst);
    }
}

/// Whether the user wants the run to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// The message of an immediate end, such as how to resume; none if nothing is left to resume.
pub fn hint(text: Option<String>) {
    *HINT.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

/// One more directory that an end at once removes as well; none for that nothing is left to remove.
pub fn discard(path: Option<PathBuf>) {
    let mut paths = DISCARD.lock().unwrap_or_else(PoisonError::into_inner);
    match path {
        Some(path) => paths.push(path),
        None => paths.clear(),
    }
}

/// From now on interruptions are heard, and an end at once runs `cleanup` and has [`Code::Interrupted`]. Only the first call
/// counts. With `json` the lines on standard error are events.
pub fn install(json: bool, cleanup: impl Fn() + Send + 'static) -> Result<()> {
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let say = move |event: Event, text: &str| {
        let line = if json { event.json().to_string() } else { format!("\n{text}") }; // below the bar, or the terminal's ^C
        // a closed standard error must not keep the process alive
        let _ = writeln!(std::io::stderr(), "{line}");
    };
    let handler = move || {
        if ATTENDED.load(Ordering::SeqCst) && !ASKED.swap(true, Ordering::SeqCst) {
            let text = "interrupted: finishing this step; once more stops at once";
            return say(Event::Warning(text.to_owned()), text);
        }
        cleanup();
        for path in DISCARD.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            remove(&path);
        }
        let hint = HINT.lock().unwrap_or_else(PoisonError::into_inner).take();
        let message = hint.unwrap_or_else(|| "interrupted: nothing unfinished was kept".to_owned());
        let code = Code::Interrupted as i32;
        say(Event::Error { code, message: message.clone() }, &message);
        std::process::exit(code);
    };
    long_files_are_errors();
    let ignored = Ignored::now();
    ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")?;
    announcements_are_ends();
    ignored.restore();
    Ok(())
}

/// Signals that whoever started the program wants it not to hear: `nohup` those of a terminal that closes, a batch script what it
/// handles itself.
#[cfg(unix)]
struct Ignored(Vec<libc::c_int>);

#[cfg(unix)]
impl Ignored {
    fn now() -> Self {
        let ignored = |signal: &libc::c_int| {
            // SAFETY: without a new action the call only writes the present one, of which all zeros are a value.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(*signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
            }
        };
        Self([libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGXCPU].into_iter().filter(ignored).collect())
    }

    fn restore(self) {
        for signal in self.0 {
            // SAFETY: a plain system call; nothing of the program runs in place of the signal.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
}

#[cfg(not(unix))]
struct Ignored;

#[cfg(not(unix))]
impl Ignored {
    fn now() -> Self {
        Self
    }

    fn restore(self) {}
}

/// Slurm, LSF and Grid Engine say that a job is about to end by SIGUSR1, SIGUSR2 or SIGXCPU, as they are told to; by itself
/// each would end the process at once.
#[cfg(unix)]
fn announcements_are_ends() {
    extern "C" fn pass_on(_: libc::c_int) {
        // SAFETY: both calls may be made in a signal handler.
        unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
    }
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGXCPU] {
        // SAFETY: the handler is a function that lives as long as the program and only sends a signal.
        unsafe { libc::signal(signal, pass_on as *const () as libc::sighandler_t) };
    }
}

#[cfg(not(unix))]
fn announcements_are_ends() {}

/// Removes a directory in which other threads may still be writing: what they add on the way out keeps it from going.
fn remove(path: &Path) {
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            _ => return, // nobody is left to hear of a failure
        }
    }
}

/// A file that grows beyond what the user may write (`ulimit -f`) is an error of that write; by itself the system would end the
/// process.
#[cfg(unix)]
fn long_files_are_errors() {
    // SAFETY: a plain system call; nothing of the program runs in place of the signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(not(unix))]
fn long_files_are_errors() {}
