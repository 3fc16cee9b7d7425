//! The crate as a whole: what is written is read back, nothing unfinished stays, nothing is overwritten without being asked.

use super::partial::ROOM;
use super::testing::{names, output, picture, pictures, psnr, read_all, round_trip, write_all};
use super::*;
use std::fs;
use tempfile::tempdir;

#[cfg(feature = "video")]
const SUFFIXES: [&str; 5] = ["mp4", "webm", "gif", "y4m", "dir/"];
#[cfg(not(feature = "video"))]
const SUFFIXES: [&str; 3] = ["gif", "y4m", "dir/"];

/// Measured values less two or three dB. The picture stretches over any size, so small ones have steep colour ramps, which
/// 4:2:0 blurs.
const SIZES: [(usize, usize, [f64; 4]); 3] =
    [(144, 96, [44.5, 42.0, 34.0, 50.0]), (50, 34, [40.0, 39.0, 30.0, 47.5]), (16, 16, [33.5, 33.5, 98.0, 37.0])];

fn bound(suffix: &str, bounds: [f64; 4]) -> f64 {
    match suffix {
        "mp4" => bounds[0],
        "webm" => bounds[1],
        "gif" => bounds[2],
        "y4m" => bounds[3],
        _ => 98.0, // PNG loses nothing
    }
}

#[test]
fn every_format_gives_its_frames_back() {
    let directory = tempdir().unwrap();
    for (width, height, bounds) in SIZES {
        for count in [1, 2, 3, 11] {
            for suffix in SUFFIXES {
                let path = directory.path().join(format!("{width}x{height}-{count}.{suffix}"));
                let (found, bound) = (round_trip(&output(&path, width, height), count), bound(suffix, bounds));
                assert!(found > bound, "{width}x{height}, {count} frames, {suffix}: {found:.1} dB");
            }
        }
    }
}

#[test]
fn the_smallest_video_works() {
    let directory = tempdir().unwrap();
    let frame = Frame { width: 2, height: 2, data: [30, 160, 220].repeat(4) };
    for suffix in SUFFIXES {
        let path = directory.path().join(format!("a.{suffix}"));
        write_all(&output(&path, 2, 2), &[frame.clone(), frame.clone()]).unwrap();
        let found = read_all(&path).0;
        assert_eq!(found.len(), 2);
        let found = psnr(&found[1], &frame);
        assert!(found > 38.0, "{suffix}: {found:.1} dB");
    }
}

#[test]
fn odd_sizes_work_where_the_colour_resolution_allows() {
    let directory = tempdir().unwrap();
    for suffix in ["gif", "dir/"] {
        round_trip(&output(&directory.path().join(format!("a.{suffix}")), 7, 5), 2);
    }
    let full = Output { pix_fmt: Some(PixelFormat::Yuv444p), ..output(&directory.path().join("a.y4m"), 7, 5) };
    assert!(round_trip(&full, 2) > 45.0);
    let half = Output { pix_fmt: None, ..full };
    let error = check(&half).unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Usage));
    assert!(error.to_string().contains("6x4 or 6x6 or 8x4 or 8x6"), "{error}");
}

#[test]
fn the_same_frames_give_the_same_bytes() {
    let directory = tempdir().unwrap();
    let frames = pictures(96, 64, 11);
    for suffix in ["mp4", "webm", "gif", "y4m"].into_iter().filter(|suffix| SUFFIXES.contains(suffix)) {
        let bytes = |name: &str| {
            let path = directory.path().join(format!("{name}.{suffix}"));
            write_all(&Output { metadata: Some("{}".into()), ..output(&path, 96, 64) }, &frames).unwrap();
            fs::read(path).unwrap()
        };
        assert!(bytes("one") == bytes("two"), "{suffix}");
    }
}

#[test]
fn manifests_come_back() {
    let directory = tempdir().unwrap();
    let long: String = (0..9000).map(|number| format!("\"k{number}\": [1, 2],\n")).take_while(|_| true).collect();
    assert!(long.len() > 128 << 10);
    let texts = ["{}", "{\"a\": \"ünïcödé 漢字 🎬 =;#\\\\ \\\"q\\\"\",\n\t\"b\": [1]}\r\n", &long];
    for suffix in SUFFIXES.into_iter().filter(|suffix| *suffix != "y4m") {
        for (index, text) in texts.iter().enumerate() {
            let path = directory.path().join(format!("{index}.{suffix}"));
            let output = Output { metadata: Some(text.to_string()), ..output(&path, 16, 16) };
            write_all(&output, &pictures(16, 16, 2)).unwrap();
            assert!(metadata(&path).unwrap().as_deref() == Some(text), "{suffix}, text {index}");
        }
        let path = directory.path().join(format!("none.{suffix}"));
        write_all(&output(&path, 16, 16), &pictures(16, 16, 1)).unwrap();
        assert_eq!(metadata(&path).unwrap(), None, "{suffix}");
    }
    let zero = Output { metadata: Some("a\0b".into()), ..output(&directory.path().join("z.gif"), 16, 16) };
    assert_eq!(fault(&check(&zero).unwrap_err()), Some(Fault::Usage));
}

#[test]
fn nothing_stays_of_a_dropped_writer() {
    for suffix in SUFFIXES {
        let directory = tempdir().unwrap();
        let path = directory.path().join(format!("clip.{suffix}"));
        let mut writer = open(&output(&path, 16, 16)).unwrap();
        writer.write(picture(16, 16, 0)).unwrap();
        let during = names(&directory);
        assert_eq!(during.len(), 1, "{suffix}");
        assert!(during[0].starts_with('.') && during[0].contains("partial"), "{during:?}");
        drop(writer);
        assert!(names(&directory).is_empty(), "{suffix}: {:?}", names(&directory));
        assert!(open(&output(&path, 16, 16)).unwrap().finish().is_err(), "no frames");
        assert!(names(&directory).is_empty(), "{suffix}");
    }
}

/// The device is full after so many bytes: an error that says so, at whatever stage, and nothing left.
#[test]
fn a_full_device_is_an_error_and_leaves_nothing() {
    for suffix in SUFFIXES {
        let directory = tempdir().unwrap();
        let output = Output {
            metadata: Some("x".repeat(20_000)),
            ..output(&directory.path().join(format!("a.{suffix}")), 64, 64)
        };
        let frames = pictures(64, 64, 6);
        let whole = write_all(&output, &frames).unwrap().bytes;
        let output = Output { overwrite: true, ..output };
        for share in [0, 1, 30, 60, 90, 99] {
            ROOM.set(Some(whole * share / 100));
            let result = write_all(&output, &frames);
            ROOM.set(None);
            let error = result.expect_err(suffix);
            assert_eq!(fault(&error), Some(Fault::DiskFull), "{suffix} at {share}%: {error:#}");
            assert_eq!(names(&directory).len(), 1, "{suffix} at {share}%: {:?}", names(&directory));
        }
        assert!(!read_all(&output.path).0.is_empty(), "the old {suffix} is untouched");
    }
}

#[test]
fn existing_files_are_replaced_only_when_asked() {
    for suffix in SUFFIXES {
        let directory = tempdir().unwrap();
        let path = directory.path().join(format!("clip.{suffix}"));
        let first = output(&path, 16, 16);
        write_all(&first, &pictures(16, 16, 1)).unwrap();
        let error = check(&first).unwrap_err();
        assert_eq!(fault(&error), Some(Fault::Exists), "{suffix}");
        assert!(error.to_string().contains("-y"));
        let again = Output { overwrite: true, ..first };
        let mut writer = open(&again).unwrap();
        writer.write(picture(16, 16, 0)).unwrap();
        drop(writer);
        assert_eq!(read_all(&path).0.len(), 1, "{suffix}: a failed replacement leaves the old one");
        write_all(&again, &pictures(16, 16, 3)).unwrap();
        assert_eq!(read_all(&path).0.len(), 3, "{suffix}");
        assert_eq!(names(&directory).len(), 1, "{suffix}: {:?}", names(&directory));
    }
}

#[test]
fn a_name_taken_during_the_run_is_not_overwritten() {
    for suffix in SUFFIXES {
        let directory = tempdir().unwrap();
        let path = directory.path().join(format!("clip.{suffix}"));
        let mut writer = open(&output(&path, 16, 16)).unwrap();
        writer.write(picture(16, 16, 0)).unwrap();
        match suffix {
            "dir/" => {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("manifest.json"), "theirs").unwrap();
            }
            _ => fs::write(&path, "theirs").unwrap(),
        }
        let written = writer.finish().unwrap();
        assert_ne!(written.path, path);
        assert!(written.warnings[0].contains("clip-1"), "{:?}", written.warnings);
        assert_eq!(read_all(&written.path).0.len(), 1);
        let theirs = if suffix == "dir/" { path.join("manifest.json") } else { path.clone() };
        assert_eq!(fs::read_to_string(theirs).unwrap(), "theirs");
    }
}

#[test]
fn frames_in_a_directory_are_replaced_and_nothing_else() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("frames/");
    let first = Output { metadata: Some("{}".into()), ..output(&path, 16, 16) };
    let inside = || {
        let mut inside: Vec<String> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        inside.sort();
        inside
    };
    fs::create_dir(&path).unwrap();
    let before = fs::metadata(&path).unwrap().created().ok();
    write_all(&first, &pictures(16, 16, 3)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().created().ok(), before, "an empty directory is filled, not replaced");
    assert_eq!(inside(), ["frame-000000.png", "frame-000001.png", "frame-000002.png", "manifest.json"]);
    fs::write(path.join("notes.txt"), "mine").unwrap();
    assert_eq!(fault(&check(&first).unwrap_err()), Some(Fault::Exists));
    let again = Output { overwrite: true, metadata: None, ..first };
    write_all(&again, &pictures(16, 16, 2)).unwrap();
    assert_eq!(inside(), ["frame-000000.png", "frame-000001.png", "notes.txt"]);
    assert_eq!(names(&directory), ["frames"]);
    fs::write(path.join("cat.JPG"), "mine").unwrap();
    let error = check(&again).unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Usage));
    assert!(error.to_string().contains("cat.JPG"), "{error}");
}

#[test]
fn bad_places_are_found_before_the_run() {
    let directory = tempdir().unwrap();
    let at = |name: &str| {
        Output { format: Format::Gif, ..output(Path::new("x.gif"), 16, 16) }.at(directory.path().join(name))
    };
    let fails = |output: &Output, text: &str| {
        let error = check(output).unwrap_err();
        assert_eq!(fault(&error), Some(Fault::Usage), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    fails(&at("missing/a.gif"), "create it first");
    fs::write(directory.path().join("file"), "").unwrap();
    fails(&at("file/a.gif"), "Not a directory");
    fs::create_dir(directory.path().join("d.gif")).unwrap();
    fails(&at("d.gif"), "is a directory");
    fails(&at(&format!("{}.gif", "n".repeat(300))), "304 bytes are too long for the name of a file");
    let frames = Output { format: Format::PngDir, ..at("file") };
    fails(&frames, "is a file");
    let zero = Output { width: 0, ..at("a.gif") };
    fails(&zero, "sides go from 1");
    fails(&Output { fps: Rate { num: 0, den: 1 }, ..at("a.gif") }, "frame rate");
    fails(&Output { fps: Rate { num: 60, den: 1 }, ..at("a.gif") }, "50 frames per second");
    fails(&Output { crf: Some(20), ..at("a.gif") }, "--crf has no meaning");
    fails(&Output { codec: Some(Codec::H264), ..at("a.gif") }, "--codec has no meaning");
    assert!(check(&at("a.gif")).is_ok());
    assert_eq!(names(&directory), ["d.gif", "file"], "a check leaves nothing");
}

impl Output {
    fn at(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }
}

#[test]
#[cfg(unix)]
fn links_are_followed_and_strange_things_left_alone() {
    use std::os::unix::fs::symlink;
    let directory = tempdir().unwrap();
    let real = directory.path().join("real.gif");
    write_all(&output(&real, 16, 16), &pictures(16, 16, 1)).unwrap();
    let link = directory.path().join("link.gif");
    symlink(&real, &link).unwrap();
    assert_eq!(fault(&check(&output(&link, 16, 16)).unwrap_err()), Some(Fault::Exists));
    write_all(&Output { overwrite: true, ..output(&link, 16, 16) }, &pictures(16, 16, 2)).unwrap();
    assert!(link.is_symlink());
    assert_eq!(read_all(&real).0.len(), 2);
    let null =
        Output { format: Format::Gif, overwrite: true, ..output(Path::new("x.gif"), 16, 16) }.at("/dev/null".into());
    assert!(check(&null).unwrap_err().to_string().contains("no regular file"));
}

#[test]
fn unfinished_outputs_can_be_removed_at_once() {
    let directory = tempdir().unwrap();
    let writer = open(&output(&directory.path().join("a.gif"), 16, 16)).unwrap();
    let partial = directory.path().join(&names(&directory)[0]);
    // `remove_partials` would take those of tests that run beside this one: the registry is what it goes by.
    assert!(vidgen_base::disk::is_registered(&partial));
    drop(writer);
    assert!(!vidgen_base::disk::is_registered(&partial));
}

#[test]
fn y4m_has_the_header_readers_know() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.y4m");
    write_all(&output(&path, 16, 8), &pictures(16, 8, 2)).unwrap();
    let bytes = fs::read(&path).unwrap();
    let header = b"YUV4MPEG2 W16 H8 F8:1 Ip A1:1 C420mpeg2 XCOLORRANGE=LIMITED XMATRIX=BT601\n";
    assert_eq!(&bytes[..header.len()], header);
    assert_eq!(bytes.len(), header.len() + 2 * (6 + 16 * 8 * 3 / 2));
}

#[test]
#[cfg(not(feature = "video"))]
fn without_ffmpeg_its_formats_say_so() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.mp4");
    assert!(check(&output(&path, 16, 16)).unwrap_err().to_string().contains("no FFmpeg"));
    fs::write(&path, b"\0\0\0\x20ftypisom").unwrap();
    assert!(metadata(&path).unwrap_err().to_string().contains("no FFmpeg"));
    assert!(read(&path, &Limits::default()).err().unwrap().to_string().contains("no FFmpeg"));
}

/// The values of red in 8 bits, by BT.601 and BT.709: readers go by the size.
#[test]
fn y4m_has_the_matrix_that_its_readers_take() {
    let directory = tempdir().unwrap();
    for (width, height, red) in [(144, 96, [81, 90, 240]), (720, 480, [81, 90, 240]), (1360, 768, [63, 102, 240])] {
        let path = directory.path().join(format!("{width}.y4m"));
        let frame = Frame { width, height, data: [255, 0, 0].repeat(width * height) };
        write_all(&output(&path, width, height), std::slice::from_ref(&frame)).unwrap();
        let bytes = fs::read(&path).unwrap();
        let start = bytes.windows(6).position(|six| six == b"FRAME\n").unwrap() + 6;
        let (luma, chroma) = (width * height, width / 2 * (height / 2));
        let found = [bytes[start], bytes[start + luma], bytes[start + luma + chroma]];
        let near = found.iter().zip(red).all(|(a, b): (&u8, u8)| a.abs_diff(b) <= 1);
        assert!(near, "{width}x{height}: {found:?}");
        let back = &read_all(&path).0[0].data[..3];
        assert!(back[0] >= 253 && back[1] <= 2 && back[2] <= 2, "{back:?}");
    }
}

#[test]
fn y4m_of_other_pixels_says_so() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.y4m");
    let lost = |fields: &str| {
        fs::write(&path, format!("YUV4MPEG2 W4 H4 F8:1 {fields} Cmono\nFRAME\n0123456789abcdef")).unwrap();
        read(&path, &Limits::default()).map(|reader| reader.lost().to_vec())
    };
    assert_eq!(lost("Ip A0:0").unwrap(), [""; 0]);
    assert_eq!(lost("A1:1").unwrap(), [""; 0]);
    assert!(lost("A16:15").unwrap()[0].contains("16:15"));
    for order in ["It", "Ib", "Im"] {
        let error = lost(order).unwrap_err().to_string();
        assert!(error.contains("interlaced") && error.contains("ffmpeg -i") && error.contains("bwdif"), "{error}");
    }
}
