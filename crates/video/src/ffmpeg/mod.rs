//! MP4 and WebM through FFmpeg's libraries, 5.1 and later.
//!
//! FFmpeg never opens an output by name itself: it writes through a file that was opened here, so that the system's own
//! error comes back, and it never prints: its first error line since the last call is kept for the message.

mod decode;
mod encode;
mod orientation;
mod properties;
#[cfg(test)]
mod tests;

pub(super) use decode::{metadata, read};
pub(super) use encode::{available, check, open};

use crate::fault::input;
use crate::source::quoted;
use ffmpeg_next::{Error, ffi};
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::Once;

thread_local! {
    static LINE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Prepares FFmpeg, once for the process.
fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The only error there could be is from registering devices, which are not compiled in.
        let _ = ffmpeg_next::init();
        // SAFETY: the callback has the type FFmpeg asks for and touches nothing but its arguments and a thread local.
        unsafe { ffi::av_log_set_callback(Some(keep)) };
    });
}

/// Keeps the first error line. The type of a C argument list differs between platforms: FFmpeg's bindings decide it.
unsafe extern "C" fn keep<V>(source: *mut c_void, level: c_int, format: *const c_char, arguments: V) {
    if level & 0xff > ffi::AV_LOG_ERROR {
        return;
    }
    let mut text = [0 as c_char; 512];
    let mut prefix = 0;
    // SAFETY: `V` is the argument list's type in the callback's signature, and the same C type is the function's fourth
    // parameter; the line is cut to the buffer and ends in a zero.
    let line = unsafe {
        ffi::av_log_format_line2(
            source,
            level,
            format,
            std::mem::transmute_copy(&arguments),
            text.as_mut_ptr(),
            text.len() as c_int,
            &mut prefix,
        );
        CStr::from_ptr(text.as_ptr())
    };
    let line = line.to_string_lossy().trim().to_string();
    // A log line of a thread that is ending has no place to go.
    let _ = LINE.try_with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut()
            && !line.is_empty()
        {
            kept.get_or_insert(line);
        }
    });
}

/// FFmpeg's version.
pub(super) fn library() -> Option<String> {
    // SAFETY: FFmpeg returns a string that lives as long as the program, or none.
    let version = unsafe {
        let version = ffi::av_version_info();
        (!version.is_null()).then(|| CStr::from_ptr(version))
    };
    version.map(|version| version.to_string_lossy().into_owned())
}

/// Forgets the kept line; before a call whose failure is to be explained.
fn forget_line() {
    LINE.with(|kept| kept.borrow_mut().take());
}

/// Whether FFmpeg logged an error since the last [`forget_line`].
fn line_kept() -> bool {
    LINE.with(|kept| kept.borrow().is_some())
}

/// An error with the line FFmpeg logged about it.
fn explain(error: Error) -> String {
    match LINE.with(|kept| kept.borrow_mut().take()) {
        Some(line) => format!("{error} ({line})"),
        None => error.to_string(),
    }
}

/// A file that FFmpeg cannot open, with what to do about it.
fn cannot(path: &Path, error: Error) -> anyhow::Error {
    let (name, file, why) = (path.display(), quoted(path), explain(error));
    // FFmpeg's words for a format that it knows and was told to leave alone
    if why.contains("not on whitelist") {
        return input(format!(
            "cannot read {name}: of a format that is not read here: to make a video of it, ffmpeg -i {file} -crf 12 video.mp4; a \
             picture, ffmpeg -i {file} picture.png"
        ));
    }
    if error == Error::InvalidData {
        return input(format!("cannot read {name}: no video or picture that is known here, or a damaged one: {why}"));
    }
    input(format!("cannot read {name}: {why}"))
}
