//! The room as a whole: what goes in comes back, nothing half-written stays, nothing is overwritten unasked.

use super::partial::ROOM;
use super::testing::{output, picture, psnr};
use super::*;
use std::fs;
use tempfile::{TempDir, tempdir};

fn write_all(output: &Output, frames: &[Frame]) -> Result<Written> {
    let mut writer = open(output)?;
    for frame in frames {
        writer.write(frame.clone())?;
    }
    writer.finish()
}

fn read_all(path: &Path) -> (Vec<Frame>, Option<Rate>) {
    let reader = read(path, &Limits::default()).unwrap();
    let (size, fps) = ((reader.width(), reader.height()), reader.fps());
    let frames: Vec<Frame> = reader.collect::<Result<_>>().unwrap();
    assert!(frames.iter().all(|frame| (frame.width, frame.height) == size));
    (frames, fps)
}

fn pictures(width: usize, height: usize, count: usize) -> Vec<Frame> {
    (0..count).map(|number| picture(width, height, number)).collect()
}

fn names(directory: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Encodes and decodes, compares each frame, and returns the smallest PSNR.
fn round_trip(output: &Output, count: usize) -> f64 {
    let frames = pictures(output.width, output.height, count);
    let written = write_all(output, &frames).unwrap();
    assert_eq!(written.frames, count as u64);
    if output.format != Format::PngDir {
        assert_eq!(written.bytes, fs::metadata(&written.path).unwrap().len());
    }
    let (found, fps) = read_all(&output.path);
    assert_eq!(found.len(), count, "{}", output.path.display());
    if output.format != Format::PngDir {
        assert_eq!(fps, Some(output.fps), "{}", output.path.display());
    }
    frames.iter().zip(&found).map(|(a, b)| psnr(a, b)).fold(f64::INFINITY, f64::min)
}

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
                fs::write(path.join("theirs"), "theirs").unwrap();
            }
            _ => fs::write(&path, "theirs").unwrap(),
        }
        let written = writer.finish().unwrap();
        assert_ne!(written.path, path);
        assert!(written.warnings[0].contains("clip-1"), "{:?}", written.warnings);
        assert_eq!(read_all(&written.path).0.len(), 1);
        let theirs = if suffix == "dir/" { path.join("theirs") } else { path.clone() };
        assert_eq!(fs::read_to_string(theirs).unwrap(), "theirs");
    }
}

#[test]
fn only_directories_of_frames_are_replaced() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("frames/");
    let output = Output { overwrite: true, metadata: Some("{}".into()), ..output(&path, 16, 16) };
    fs::create_dir(&path).unwrap();
    write_all(&output, &pictures(16, 16, 2)).unwrap();
    assert_eq!(names(&directory), ["frames"]);
    let mut inside: Vec<String> =
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    inside.sort();
    assert_eq!(inside, ["frame-000000.png", "frame-000001.png", "manifest.json"]);
    fs::write(path.join("notes.txt"), "mine").unwrap();
    let error = check(&output).unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(fs::read_to_string(path.join("notes.txt")).unwrap(), "mine");
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
    fails(&at(&format!("{}.gif", "n".repeat(300))), "name too long");
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
    assert!(super::partial::is_registered(&partial));
    drop(writer);
    assert!(!super::partial::is_registered(&partial));
}

#[test]
fn y4m_has_the_header_readers_know() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.y4m");
    write_all(&output(&path, 16, 8), &pictures(16, 8, 2)).unwrap();
    let bytes = fs::read(&path).unwrap();
    let header = b"YUV4MPEG2 W16 H8 F8:1 Ip A1:1 C420mpeg2 XCOLORRANGE=LIMITED XMATRIX=BT709\n";
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

#[cfg(feature = "video")]
mod ffmpeg {
    use super::*;

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
        let colours =
            [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [255, 255, 0], [128, 128, 128]];
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

    #[test]
    fn cut_and_damaged_videos_are_errors_and_never_panics() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("a.mp4");
        write_all(&output(&path, 64, 48), &pictures(64, 48, 8)).unwrap();
        let whole = fs::read(&path).unwrap();
        let attempt = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read(&path, &Limits::default()).and_then(|reader| reader.collect::<Result<Vec<_>>>())
        };
        assert_eq!(attempt(&whole).unwrap().len(), 8);
        for share in 0..20 {
            let error = attempt(&whole[..whole.len() * share / 20]).unwrap_err();
            assert_eq!(fault(&error), Some(Fault::Input), "{error:#}");
        }
        // Any byte may be anything; what counts is that each attempt ends.
        for seed in 0..200usize {
            let mut bytes = whole.clone();
            for hit in 0..4 {
                let at = (seed * 2_654_435_761 + hit * 40_503) % bytes.len();
                bytes[at] ^= (seed * 31 + hit * 7 + 1) as u8;
            }
            let _ = attempt(&bytes).map(|frames| assert!(frames.len() <= 100_000));
            let _ = metadata(&path);
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
}
