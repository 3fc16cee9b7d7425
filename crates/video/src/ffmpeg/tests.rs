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
    // nor any other format that FFmpeg has and that is not read here: what to make of it is said
    let picture = directory.path().join("a.bmp");
    // a BMP of 2x2 black pixels
    let head = [70u32, 0, 54, 40, 2, 2, 1 | 24 << 16, 0, 16, 0, 0, 0, 0];
    let bytes = [&b"BM"[..], &head.map(u32::to_le_bytes).concat(), &[0; 16]].concat();
    fs::write(&picture, bytes).unwrap();
    let error = read(&picture, &Limits::default()).err().unwrap().to_string();
    assert!(error.contains("a format that is not read here") && error.contains("ffmpeg -i"), "{error}");
}

/// What a clip of [`made`] is.
#[derive(Clone, Copy)]
struct Made<'a> {
    interlaced: bool,
    sound: bool,
    /// Times of its pictures in 1/600 s.
    times: &'a [i64],
}

/// Writes grey MPEG-4 pictures of 64x48 as FFmpeg itself would, with properties that this program never writes.
fn made(path: &Path, what: Made) {
    use ffmpeg_next::codec::packet::Mut;
    use ffmpeg_next::{Packet, Rational, codec, encoder, ffi, format, frame};
    let base = Rational(1, 600);
    let mut output = format::output(path).unwrap();
    let codec = encoder::find(codec::Id::MPEG4).unwrap();
    let mut encoder = codec::Context::new_with_codec(codec).encoder().video().unwrap();
    encoder.set_width(64);
    encoder.set_height(48);
    encoder.set_format(format::Pixel::YUV420P);
    encoder.set_time_base(base);
    if what.interlaced {
        encoder.set_flags(codec::Flags::INTERLACED_DCT);
    }
    let mut encoder = encoder.open().unwrap();
    {
        let mut stream = output.add_stream(codec).unwrap();
        stream.set_parameters(&encoder);
        stream.set_time_base(base);
    }
    if what.sound {
        let stream = output.add_stream(encoder::find(codec::Id::PCM_S16LE)).unwrap();
        // SAFETY: the stream was just made and its parameters are ours to set.
        unsafe {
            let parameters = (*stream.as_ptr()).codecpar;
            (*parameters).codec_type = ffi::AVMediaType::AVMEDIA_TYPE_AUDIO;
            (*parameters).codec_id = ffi::AVCodecID::AV_CODEC_ID_PCM_S16LE;
            (*parameters).sample_rate = 8000;
            (*parameters).ch_layout.order = ffi::AVChannelOrder::AV_CHANNEL_ORDER_UNSPEC;
            (*parameters).ch_layout.nb_channels = 1;
        }
    }
    output.write_header().unwrap();
    let to = output.stream(0).unwrap().time_base();
    let mut packet = Packet::empty();
    for number in 0..=what.times.len() {
        match what.times.get(number) {
            Some(time) => {
                let mut picture = frame::Video::new(format::Pixel::YUV420P, 64, 48);
                picture.data_mut(0).fill(30 + 8 * number as u8);
                picture.data_mut(1).fill(128);
                picture.data_mut(2).fill(128);
                picture.set_pts(Some(*time));
                // SAFETY: the picture is ours.
                unsafe { (*picture.as_mut_ptr()).interlaced_frame = i32::from(what.interlaced) };
                encoder.send_frame(&picture).unwrap();
            }
            None => encoder.send_eof().unwrap(),
        }
        while encoder.receive_packet(&mut packet).is_ok() {
            packet.set_stream(0);
            packet.rescale_ts(base, to);
            // SAFETY: plain numbers of a packet of ours.
            unsafe { (*packet.as_mut_ptr()).duration = 0 };
            packet.write_interleaved(&mut output).unwrap();
        }
    }
    if what.sound {
        let mut packet = Packet::copy(&[0; 1600]);
        packet.set_stream(1);
        packet.set_pts(Some(0));
        packet.set_dts(Some(0));
        packet.write_interleaved(&mut output).unwrap();
    }
    output.write_trailer().unwrap();
}

/// 25 a second.
fn even() -> Vec<i64> {
    (0..10).map(|number| number * 24).collect()
}

fn lost(path: &Path) -> Vec<String> {
    read(path, &Limits::default()).unwrap().lost().to_vec()
}

#[test]
fn every_property_that_is_lost_gets_a_word_and_a_line() {
    let directory = tempdir().unwrap();
    let times = even();
    let plain = Made { interlaced: false, sound: false, times: &times };
    let path = directory.path().join("a clip.mov");
    made(&path, plain);
    assert_eq!(lost(&path), [""; 0]);
    for (what, words) in [
        (Made { interlaced: true, ..plain }, ["interlaced", "bwdif"]),
        (Made { sound: true, ..plain }, ["sound", "-map 1:a"]),
    ] {
        made(&path, what);
        let lost = lost(&path);
        let [sentence] = lost.as_slice() else { panic!("{lost:?}") };
        let file = format!("-i '{}'", path.display());
        assert!(words.iter().all(|word| sentence.contains(word)) && sentence.contains(&file), "{sentence}");
    }
    // pixels twice as wide as high
    made(&path, plain);
    set_matrix(&path, [2, 0, 0, 1]);
    assert!(lost(&path)[0].contains("2:1") && lost(&path)[0].contains("setsar=1"), "{:?}", lost(&path));
}

#[test]
fn pictures_at_uneven_times_come_on_an_even_grid() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.mov");
    // a screen: twelve pictures at 30 a second, a pause until the fifth second, twelve more
    let times: Vec<i64> =
        (0..24).map(|number| if number < 12 { number * 20 } else { 3000 + (number - 12) * 20 }).collect();
    made(&path, Made { interlaced: false, sound: false, times: &times });
    assert!(lost(&path)[0].contains("varying rate") && lost(&path)[0].contains("fps=30"), "{:?}", lost(&path));
    let (frames, fps) = read_all(&path);
    assert_eq!((frames.len(), fps), (162, Some(Rate { num: 30, den: 1 })));
    // what `ffmpeg -vf fps=30` gives: the twelfth picture stays
    let level = |index: usize| i32::from(frames[index].data[0]);
    assert_eq!(level(12), level(149));
    assert!(level(150) > level(149) && level(11) == level(12) && level(11) > level(10));
    let few = Limits { max_frames: 100, ..Limits::default() };
    assert!(read(&path, &few).unwrap().collect::<Result<Vec<_>>>().is_err());
}

/// Writes a display matrix `[a, b, c, d]` into the first track of an MP4.
fn set_matrix(path: &Path, matrix: [i32; 4]) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(4).position(|four| four == b"tkhd").unwrap() + 4;
    let start = at + 4 + if bytes[at] == 0 { 20 } else { 32 } + 8 + 8;
    let [a, b, c, d] = matrix.map(|entry| entry << 16);
    for (index, entry) in [a, b, 0, c, d, 0, 0, 0, 1 << 30].into_iter().enumerate() {
        bytes[start + 4 * index..][..4].copy_from_slice(&entry.to_be_bytes());
    }
    fs::write(path, bytes).unwrap();
}

/// Six patches of 16x16, grey by their number, under each of the eight matrices.
#[test]
fn all_eight_orientations_are_shown() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.mp4");
    let patch = |x: usize, y: usize| 20 + 40 * (x / 16 + 3 * (y / 16)) as u8;
    let data = (0..32).flat_map(|y| (0..48).flat_map(move |x| [patch(x, y); 3])).collect();
    let frame = Frame { width: 48, height: 32, data };
    for (matrix, patches) in super::orientation::tests::EIGHT {
        write_all(&Output { overwrite: true, ..output(&path, 48, 32) }, &[frame.clone(), frame.clone()]).unwrap();
        set_matrix(&path, matrix);
        let shown = &read_all(&path).0[0];
        let across = shown.width / 16;
        let found: Vec<u8> = (0..6)
            .map(|index| {
                let (x, y) = (16 * (index % across) + 8, 16 * (index / across) + 8);
                (shown.data[3 * (y * shown.width + x)].saturating_sub(10)) / 40
            })
            .collect();
        assert_eq!(found, patches, "{matrix:?}");
        assert_eq!(lost(&path), [""; 0]);
    }
}

#[test]
fn hdr_is_refused_with_the_line_that_converts_it_and_wide_colours_are_named() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.mp4");
    let coloured = |primaries: u8, transfer: u8| {
        let output = Output { codec: Some(Codec::Mpeg4), overwrite: true, ..output(&path, 32, 32) };
        write_all(&output, &pictures(32, 32, 2)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(8).position(|eight| eight == b"colrnclx").unwrap() + 8;
        (bytes[at + 1], bytes[at + 3]) = (primaries, transfer);
        fs::write(&path, bytes).unwrap();
        read(&path, &Limits::default())
    };
    assert_eq!(coloured(1, 1).unwrap().lost(), [""; 0]);
    for (transfer, curve) in [(18, "HLG"), (16, "PQ")] {
        let error = coloured(9, transfer).err().unwrap();
        assert_eq!(fault(&error), Some(Fault::Input));
        let line = error.to_string();
        for part in [curve, "HDR", "ffmpeg -i", "zscale=t=linear", "tonemap="] {
            assert!(line.contains(part), "{line}");
        }
    }
    for (primaries, name) in [(9, "BT.2020"), (12, "P3")] {
        let lost = coloured(primaries, 1).unwrap().lost().to_vec();
        assert!(lost[0].contains(name) && lost[0].contains("zscale=p=bt709"), "{lost:?}");
    }
}
