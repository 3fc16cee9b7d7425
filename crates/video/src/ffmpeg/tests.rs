//! MP4 and WebM as a whole: codecs, colours, bad settings, bad files.

use crate::testing::{names, output, pictures, psnr, read_all, round_trip, write_all};
use crate::*;
use anyhow::Result;
use std::fs;
use tempfile::tempdir;

fn has(output: &Output) -> bool {
    match check(output) {
        Ok(_) => true,
        Err(error) if error.to_string().contains("no encoder for") => false,
        Err(error) => panic!("{error:#}"),
    }
}

#[test]
fn every_codec_gives_its_frames_back() {
    let directory = tempdir().unwrap();
    let mut tried = Vec::new();
    for (suffix, codecs) in [("mp4", Format::Mp4.codecs()), ("webm", Format::Webm.codecs())] {
        for &codec in codecs {
            let path = directory.path().join(format!("{codec}.{suffix}"));
            let output = Output { codec: Some(codec), ..output(&path, 96, 64) };
            if has(&output) {
                let found = round_trip(&output, 5);
                assert!(found > 41.0, "{codec} in {suffix}: {found:.1} dB");
                tried.push(codec);
            }
        }
    }
    assert!(tried.contains(&Codec::Mpeg4), "the one that every FFmpeg has");
}

#[test]
fn every_pixel_format_gives_its_frames_back() {
    let directory = tempdir().unwrap();
    for format in PixelFormat::ALL {
        let path = directory.path().join(format!("{format}.mp4"));
        let output = Output { pix_fmt: Some(format), codec: Some(Codec::H264), ..output(&path, 48, 32) };
        if check(&output).is_ok() {
            let found = round_trip(&output, 3);
            assert!(found > 36.0, "{format}: {found:.1} dB");
        }
    }
    let wrong = Output {
        pix_fmt: Some(PixelFormat::Yuv444p),
        codec: Some(Codec::Mpeg4),
        ..output(&directory.path().join("x.mp4"), 48, 32)
    };
    assert!(check(&wrong).unwrap_err().to_string().contains("it takes yuv420p"));
}

/// Pure colours through the whole chain. Wrong matrices on one side shift green by about 20.
#[test]
fn pure_colours_survive() {
    let directory = tempdir().unwrap();
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [255, 255, 0], [128, 128, 128]];
    for suffix in ["mp4", "webm"] {
        for (index, rgb) in colours.into_iter().enumerate() {
            let path = directory.path().join(format!("{index}.{suffix}"));
            let frame = Frame { width: 32, height: 32, data: rgb.repeat(32 * 32) };
            write_all(&output(&path, 32, 32), &[frame.clone(), frame]).unwrap();
            for frame in read_all(&path).0 {
                for pixel in frame.data.chunks(3) {
                    let far = pixel.iter().zip(rgb).map(|(a, b)| a.abs_diff(b)).max().unwrap();
                    assert!(far <= 4, "{suffix}: {rgb:?} became {pixel:?}");
                }
            }
        }
    }
}

#[test]
fn threads_are_taken_and_keep_the_picture() {
    let directory = tempdir().unwrap();
    let frames = pictures(96, 64, 11);
    for threads in [1, 2, 8] {
        let path = directory.path().join(format!("{threads}.mp4"));
        write_all(&Output { threads: Some(threads), ..output(&path, 96, 64) }, &frames).unwrap();
        let found = read_all(&path).0;
        assert!(frames.iter().zip(&found).all(|(a, b)| psnr(a, b) > 36.0), "{threads}");
    }
}

#[test]
fn wrong_settings_are_found_before_the_run() {
    let directory = tempdir().unwrap();
    let output = output(&directory.path().join("a.mp4"), 16, 16);
    let message = |output: &Output| {
        let error = check(output).unwrap_err();
        assert_eq!(fault(&error), Some(Fault::Usage));
        error.to_string()
    };
    assert!(message(&Output { width: 17, ..output.clone() }).contains("16x16 or 18x16"));
    assert!(message(&Output { crf: Some(52), ..output.clone() }).contains("from 0 (best) to 51"));
    assert!(message(&Output { codec: Some(Codec::Vp8), ..output.clone() }).contains("it holds h264"));
    assert!(names(&directory).is_empty());
}

#[test]
fn crf_changes_the_size() {
    let directory = tempdir().unwrap();
    let frames = pictures(96, 64, 6);
    for codec in [Codec::H264, Codec::Mpeg4] {
        let bytes = |crf: u32| {
            let path = directory.path().join(format!("{codec}-{crf}.mp4"));
            let output = Output { codec: Some(codec), crf: Some(crf), ..output(&path, 96, 64) };
            write_all(&output, &frames).unwrap().bytes
        };
        assert!(bytes(10) > bytes(30), "{codec}");
    }
}

/// The index comes before the pictures, so that a browser can start at once.
#[test]
fn the_index_of_an_mp4_is_in_front() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("with:colon %d é.mp4");
    write_all(&output(&path, 32, 32), &pictures(32, 32, 3)).unwrap();
    let bytes = fs::read(&path).unwrap();
    let at = |name: &[u8]| bytes.windows(4).position(|four| four == name).unwrap();
    assert!(at(b"moov") < at(b"mdat"));
}

#[test]
#[cfg(target_os = "linux")]
fn paths_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let directory = tempdir().unwrap();
    let path = directory.path().join(std::ffi::OsStr::from_bytes(b"clip-\xff.mp4"));
    let output = Output { metadata: Some("{}".into()), ..output(&path, 32, 32) };
    assert!(round_trip(&output, 2) > 36.0);
    assert_eq!(metadata(&path).unwrap().as_deref(), Some("{}"));
}

#[test]
fn limits_hold_for_videos() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.mp4");
    write_all(&output(&path, 64, 48), &pictures(64, 48, 4)).unwrap();
    let small = Limits { max_pixels: 64 * 48 - 1, ..Limits::default() };
    assert!(read(&path, &small).err().unwrap().to_string().contains("64x48"));
    let few = Limits { max_frames: 3, ..Limits::default() };
    assert!(read(&path, &few).err().unwrap().to_string().contains("more than 3 frames"));
}

fn attempt(path: &Path, bytes: &[u8]) -> Result<Vec<Frame>> {
    fs::write(path, bytes).unwrap();
    read(path, &Limits::default()).and_then(Iterator::collect)
}

#[test]
fn cut_videos_are_errors() {
    let directory = tempdir().unwrap();
    for suffix in ["mp4", "webm"] {
        let path = directory.path().join(format!("a.{suffix}"));
        write_all(&output(&path, 64, 48), &pictures(64, 48, 8)).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(attempt(&path, &whole).unwrap().len(), 8);
        // An MP4 says in front where its pictures are, so each missing byte shows; WebM only says how long it is.
        for length in (0..whole.len()).step_by(if suffix == "mp4" { 37 } else { 91 }) {
            let error = attempt(&path, &whole[..length]).expect_err(&format!("{suffix}, {length} of {}", whole.len()));
            assert_eq!(fault(&error), Some(Fault::Input), "{error:#}");
        }
    }
}

/// Any byte may be anything; what counts is that each attempt ends in order.
#[test]
fn damaged_videos_never_panic() {
    let directory = tempdir().unwrap();
    for suffix in ["mp4", "webm"] {
        let path = directory.path().join(format!("a.{suffix}"));
        write_all(&output(&path, 64, 48), &pictures(64, 48, 8)).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut refused = 0;
        for seed in 0..150usize {
            let mut bytes = whole.clone();
            for hit in 0..4 {
                let at = (seed * 2_654_435_761 + hit * 40_503) % bytes.len();
                bytes[at] ^= (seed * 31 + hit * 7 + 1) as u8;
            }
            match attempt(&path, &bytes) {
                Ok(frames) => assert!(frames.len() <= 100),
                Err(error) => {
                    assert_eq!(fault(&error), Some(Fault::Input), "{error:#}");
                    refused += 1;
                }
            }
            let _ = metadata(&path);
        }
        assert!(refused > 0, "{suffix}");
    }
}

/// A playlist that names other files must not be followed.
#[test]
fn lists_of_files_are_not_opened() {
    let directory = tempdir().unwrap();
    let secret = directory.path().join("a.mp4");
    write_all(&output(&secret, 16, 16), &pictures(16, 16, 1)).unwrap();
    let list = directory.path().join("list.mp4");
    fs::write(&list, format!("ffconcat version 1.0\nfile '{}'\n", secret.display())).unwrap();
    assert!(read(&list, &Limits::default()).is_err());
    fs::write(&list, format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{}\n", secret.display())).unwrap();
    assert!(read(&list, &Limits::default()).is_err());
}
