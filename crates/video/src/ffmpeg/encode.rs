//! Encoding and muxing.
//!
//! The same frames give the same bytes: FFmpeg's bit-exact flags keep versions and times out of the file, and the number
//! of encoder threads, which changes what libx264 decides, does not follow the machine.

use super::{explain, forget_line, init};
use crate::fault::{failed, usage};
use crate::format::{Codec, Format, PixelFormat};
use crate::partial::{PartialFile, shown};
use crate::yuv::{self, Matrix};
use crate::{Frame, FrameSink, Output, OutputCheck, Written};
use anyhow::Result;
use ffmpeg_next::codec::{self, Flags};
use ffmpeg_next::format::{self, Pixel, context::StreamIo};
use ffmpeg_next::util::{color, frame};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, encoder, ffi};
use std::ffi::CString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Encoder threads unless the output says otherwise.
const THREADS: usize = 4;

/// FFmpeg's encoders of a codec, the preferred one first. libsvtav1 comes last because it writes to stderr by itself.
fn encoders(codec: Codec) -> &'static [&'static str] {
    match codec {
        Codec::H264 => &["libx264"],
        Codec::Mpeg4 => &["mpeg4"],
        Codec::Hevc => &["libx265"],
        Codec::Av1 => &["libaom-av1", "libsvtav1"],
        Codec::Vp9 => &["libvpx-vp9"],
        Codec::Vp8 => &["libvpx"],
    }
}

/// The encoders that this FFmpeg has.
pub(crate) fn available() -> Vec<&'static str> {
    super::init();
    let codecs = [Codec::H264, Codec::Hevc, Codec::Av1, Codec::Vp9, Codec::Vp8, Codec::Mpeg4];
    let names = codecs.into_iter().flat_map(|codec| encoders(codec).iter().copied());
    names.filter(|name| encoder::find_by_name(name).is_some()).collect()
}

#[derive(Debug, Clone, PartialEq)]
struct Choice {
    codec: Codec,
    encoder: &'static str,
    warning: Option<String>,
}

/// The encoder for an output, of those that `has` knows. A codec that was asked for is never replaced by another.
fn choose(output: &Output, has: &dyn Fn(&str) -> bool) -> Result<Choice> {
    let format = output.format;
    let find = |codec: Codec| encoders(codec).iter().find(|&&name| has(name)).copied();
    let available =
        |codecs: &[Codec]| -> Vec<Codec> { codecs.iter().copied().filter(|&codec| find(codec).is_some()).collect() };
    if let Some(codec) = output.codec {
        if !format.codecs().contains(&codec) {
            return Err(usage(format!(
                "{}: {format} does not hold {codec}; it holds {}",
                shown(output),
                list(format.codecs())
            )));
        }
        return match find(codec) {
            Some(encoder) => Ok(Choice { codec, encoder, warning: None }),
            None => Err(usage(format!(
                "{}: the installed FFmpeg has no encoder for {codec} ({}); it has {}",
                shown(output),
                list(encoders(codec)),
                list(&available(format.codecs()))
            ))),
        };
    }
    // Without a choice: the first codec, or the second with a warning. The others are slower or play in fewer places.
    let (first, second) = (format.codecs()[0], format.codecs()[1]);
    if let Some(encoder) = find(first) {
        return Ok(Choice { codec: first, encoder, warning: None });
    }
    let missing = list(encoders(first));
    match find(second) {
        Some(encoder) => {
            let warning = format!(
                "the installed FFmpeg has no {missing}: {} is written with {encoder}, which needs more bytes for the same \
                 quality; an FFmpeg with {missing} does better",
                shown(output)
            );
            Ok(Choice { codec: second, encoder, warning: Some(warning) })
        }
        None => Err(usage(format!(
            "{}: the installed FFmpeg has neither {missing} nor {}: install an FFmpeg with one of them, or use .gif, .y4m \
             or NAME/",
            shown(output),
            list(encoders(second))
        ))),
    }
}

fn pixel(format: PixelFormat) -> Pixel {
    match format {
        PixelFormat::Yuv420p => Pixel::YUV420P,
        PixelFormat::Yuv422p => Pixel::YUV422P,
        PixelFormat::Yuv444p => Pixel::YUV444P,
        PixelFormat::Yuv420p10 => Pixel::YUV420P10LE,
        PixelFormat::Yuv422p10 => Pixel::YUV422P10LE,
        PixelFormat::Yuv444p10 => Pixel::YUV444P10LE,
    }
}

/// The matrix of a codec's samples, and its tag. VP8's format fixes BT.601 (RFC 6386, 9.2), whatever the container says.
fn matrix(codec: Codec) -> (Matrix, color::Space) {
    match codec {
        Codec::Vp8 => (Matrix::BT601, color::Space::SMPTE170M),
        _ => (Matrix::BT709, color::Space::BT709),
    }
}

/// The private options of an encoder at a quality.
fn options(encoder: &str, output: &Output) -> Vec<(&'static str, String)> {
    let crf = |default: u32| output.crf.unwrap_or(default).to_string();
    match encoder {
        "libx264" => {
            let mut options = vec![("preset", "medium".into()), ("crf", crf(17))];
            options.extend(x264_instructions().map(|names| ("x264-params", format!("asm={names}"))));
            options
        }
        "libx265" => vec![("preset", "medium".into()), ("crf", crf(19)), ("x265-params", "log-level=none".into())],
        "libvpx-vp9" => {
            vec![("deadline", "good".into()), ("cpu-used", "2".into()), ("row-mt", "1".into()), ("crf", crf(20))]
        }
        "libvpx" => vec![("deadline", "good".into()), ("cpu-used", "1".into()), ("crf", crf(8))],
        "libaom-av1" => vec![("cpu-used", "5".into()), ("row-mt", "1".into()), ("crf", crf(18))],
        "libsvtav1" => vec![("preset", "6".into()), ("crf", crf(18))],
        _ => Vec::new(),
    }
}

/// The instruction sets for libx264, where it must not choose by itself: with AVX-512 its decisions depend on memory it
/// did not initialise (seen with build 164 and widths such as 96 and 144), so the same frames give other bytes on each
/// run. Every processor with AVX-512 has those named here, and the difference in speed is not measurable.
fn x264_instructions() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return Some("AVX2,FMA3,BMI2,LZCNT");
    }
    None
}

/// The quantiser of MPEG-4 (1 to 31) with the step of H.264's at a crf: 2 q = 0.625 * 2^(crf / 6).
fn quantiser(crf: u32) -> u32 {
    (0.3125 * 2f64.powf(f64::from(crf) / 6.0)).round().clamp(1.0, 31.0) as u32
}

/// An opened encoder and what it was chosen for.
struct Opened {
    encoder: encoder::video::Encoder,
    choice: Choice,
    format: PixelFormat,
    quality: Option<i32>,
}

fn open_encoder(output: &Output) -> Result<Opened> {
    init();
    let choice = choose(output, &|name| encoder::find_by_name(name).is_some())?;
    let name = shown(output);
    let format = output.pix_fmt.unwrap_or(PixelFormat::Yuv420p);
    let codec = encoder::find_by_name(choice.encoder)
        .ok_or_else(|| usage(format!("{name}: the installed FFmpeg has no {}", choice.encoder)))?;
    let supported: Option<Vec<Pixel>> = codec.video().ok().and_then(|video| video.formats()).map(Iterator::collect);
    if let Some(supported) = supported
        && !supported.contains(&pixel(format))
    {
        let known: Vec<PixelFormat> =
            PixelFormat::ALL.into_iter().filter(|&format| supported.contains(&pixel(format))).collect();
        return Err(usage(format!("{name}: {} does not take {format}; it takes {}", choice.encoder, list(&known))));
    }
    format.check_size(output.width, output.height)?;
    if let Some(crf) = output.crf
        && crf > choice.codec.max_crf()
    {
        return Err(usage(format!("{name}: crf {crf} is out of range: {} goes from 0 (best) to {}", choice.codec, {
            choice.codec.max_crf()
        })));
    }

    let cannot = |error: Error| {
        usage(format!(
            "{name}: {} does not take {}x{} {format} at {} frames per second: {}",
            choice.encoder,
            output.width,
            output.height,
            output.fps,
            explain(error)
        ))
    };
    let fps = Rational::new(output.fps.num as i32, output.fps.den as i32);
    let mut video = codec::Context::new_with_codec(codec).encoder().video().map_err(cannot)?;
    video.set_width(output.width as u32);
    video.set_height(output.height as u32);
    video.set_format(pixel(format));
    video.set_time_base(fps.invert());
    video.set_frame_rate(Some(fps));
    video.set_aspect_ratio(Rational::new(1, 1));
    video.set_colorspace(matrix(choice.codec).1);
    video.set_color_primaries(color::Primaries::BT709);
    video.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
    video.set_color_range(color::Range::MPEG);
    // A key frame every ten seconds, so that long videos at low rates can still be searched.
    video.set_gop((10.0 * output.fps.as_f64()).ceil().clamp(12.0, 250.0) as u32);
    let mut quality = None;
    let mut flags = Flags::BITEXACT | Flags::GLOBAL_HEADER; // both containers keep headers out of the stream
    match choice.encoder {
        "mpeg4" => {
            flags |= Flags::QSCALE;
            quality = Some(quantiser(output.crf.unwrap_or(17)) as i32 * ffi::FF_QP2LAMBDA);
        }
        // VP8 has no quality mode without a ceiling; one byte for each pixel of each frame is never reached.
        "libvpx" => {
            let rate = (output.width * output.height * 8) as f64 * output.fps.as_f64();
            video.set_bit_rate(rate.clamp(1e5, 1e9) as usize);
        }
        _ => video.set_bit_rate(0),
    }
    video.set_flags(flags);
    // SAFETY: the context is alive and not yet open, when these fields are free to set.
    unsafe {
        let context = video.as_mut_ptr();
        (*context).thread_count = output.threads.unwrap_or(THREADS).clamp(1, 64) as i32;
        if format.subsampling() == (2, 2) {
            (*context).chroma_sample_location = ffi::AVChromaLocation::AVCHROMA_LOC_LEFT;
        }
    }
    let mut settings = Dictionary::new();
    for (key, value) in options(choice.encoder, output) {
        settings.set(key, &value);
    }
    forget_line();
    let encoder = video.open_with(settings).map_err(cannot)?;
    Ok(Opened { encoder, choice, format, quality })
}

/// Opens the encoder for this output and closes it again.
pub(crate) fn check(output: &Output) -> Result<OutputCheck> {
    // an encoder takes threads and memory to open, and the jobs of a batch often ask for the same one
    static LAST: Mutex<Option<(Output, OutputCheck)>> = Mutex::new(None);
    let asked = Output { path: PathBuf::new(), metadata: None, overwrite: false, ..output.clone() };
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, checked)) = last().as_ref().filter(|(other, _)| *other == asked) {
        return Ok(checked.clone());
    }
    let Opened { choice, .. } = open_encoder(output)?;
    let checked = OutputCheck { codec: choice.encoder.into(), warnings: choice.warning.into_iter().collect() };
    *last() = Some((asked, checked.clone()));
    Ok(checked)
}

/// Writes MP4 or WebM. The muxer comes before the file, so that it is closed before the file is removed.
struct FfmpegSink {
    muxer: format::context::Output,
    encoder: encoder::video::Encoder,
    partial: PartialFile,
    choice: Choice,
    pixel_format: PixelFormat,
    quality: Option<i32>,
    encoder_base: Rational,
    stream_base: Rational,
    frames: i64,
}

pub(crate) fn open(output: &Output) -> Result<Box<dyn FrameSink + Send>> {
    let Opened { encoder, choice, format: pixel_format, quality } = open_encoder(output)?;
    let name = shown(output);
    let partial = PartialFile::create(output)?;
    let stream = StreamIo::from_write_seek(partial.writer()?);
    let container = if output.format == Format::Webm { "webm" } else { "mp4" };
    let cannot = |error: Error| failed(format!("cannot start {name}: {}", explain(error)));
    forget_line();
    let mut muxer = stream.and_then(|io| format::output_to_stream(io, None, Some(container))).map_err(cannot)?;
    set_url(&mut muxer, partial.temp())?;
    let encoder_base = Rational::new(output.fps.den as i32, output.fps.num as i32);
    {
        let mut stream = muxer.add_stream_with(&encoder).map_err(cannot)?;
        stream.set_time_base(encoder_base);
        stream.set_avg_frame_rate(encoder_base.invert());
        if choice.codec == Codec::Hevc {
            // Apple's players want parameter sets out of the stream, which this tag states.
            // SAFETY: the stream was just made, and its parameters belong to it.
            unsafe { (*(*stream.as_mut_ptr()).codecpar).codec_tag = u32::from_le_bytes(*b"hvc1") };
        }
    }
    // SAFETY: the context is alive, and flags may be set until the header is written.
    unsafe { (*muxer.as_mut_ptr()).flags |= ffi::AVFMT_FLAG_BITEXACT };
    if let Some(text) = &output.metadata {
        let mut metadata = Dictionary::new();
        metadata.set("comment", text); // free of zero bytes: `check` looked
        muxer.set_metadata(metadata);
    }
    let mut settings = Dictionary::new();
    if output.format == Format::Mp4 {
        settings.set("movflags", "+faststart");
    }
    let started = muxer.write_header_with(settings).map(drop);
    partial.check()?;
    started.map_err(cannot)?;
    let stream_base = muxer.stream(0).map_or(encoder_base, |stream| stream.time_base());
    Ok(Box::new(FfmpegSink {
        muxer,
        encoder,
        partial,
        choice,
        pixel_format,
        quality,
        encoder_base,
        stream_base,
        frames: 0,
    }))
}

/// Tells the muxer where its file is: moving an MP4's index to the front reads the file back by name.
fn set_url(muxer: &mut format::context::Output, path: &Path) -> Result<()> {
    let mut url = b"file:".to_vec(); // else a colon in the path would end a protocol's name
    #[cfg(unix)]
    url.extend_from_slice(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
    #[cfg(not(unix))]
    url.extend_from_slice(path.to_string_lossy().as_bytes());
    let url = CString::new(url).map_err(|_| usage(format!("{}: a path with a zero byte", path.display())))?;
    // SAFETY: the context owns its URL, which is allocated by FFmpeg; the old one is freed and the new one is a copy.
    unsafe {
        let context = muxer.as_mut_ptr();
        ffi::av_freep((&raw mut (*context).url).cast());
        (*context).url = ffi::av_strdup(url.as_ptr());
        if (*context).url.is_null() {
            return Err(failed(format!("{}: out of memory", path.display())));
        }
    }
    Ok(())
}

impl FfmpegSink {
    /// What went wrong: the system's answer if a write failed, else FFmpeg's.
    fn trouble(&self, what: &str, error: Error) -> anyhow::Error {
        match self.partial.check() {
            Err(cause) => cause,
            Ok(()) => failed(format!("{} cannot {what}: {}", self.choice.encoder, explain(error))),
        }
    }

    /// Writes the packets that the encoder has ready.
    fn drain(&mut self) -> Result<()> {
        let mut packet = Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(Error::Eof | Error::Other { errno: ffmpeg_next::error::EAGAIN }) => return Ok(()),
                Err(error) => return Err(self.trouble("encode", error)),
            }
            packet.set_stream(0);
            if packet.duration() == 0 {
                packet.set_duration(1);
            }
            packet.rescale_ts(self.encoder_base, self.stream_base);
            packet.write_interleaved(&mut self.muxer).map_err(|error| self.trouble("write the video", error))?;
        }
    }
}

impl FrameSink for FfmpegSink {
    fn write(&mut self, frame: Frame) -> Result<()> {
        let planes = yuv::from_rgb(&frame, self.pixel_format, matrix(self.choice.codec).0);
        let bytes = if self.pixel_format.depth() > 8 { 2 } else { 1 };
        let (across, _) = self.pixel_format.subsampling();
        // A new picture each time: the encoder holds on to those it has seen.
        let mut picture = frame::Video::new(pixel(self.pixel_format), frame.width as u32, frame.height as u32);
        for (index, plane) in planes.iter().enumerate() {
            let row = bytes * if index == 0 { frame.width } else { frame.width.div_ceil(across) };
            let stride = picture.stride(index);
            for (to, from) in picture.data_mut(index).chunks_mut(stride).zip(plane.chunks_exact(row)) {
                to[..row].copy_from_slice(from);
            }
        }
        picture.set_pts(Some(self.frames));
        if let Some(quality) = self.quality {
            // SAFETY: the picture is alive; MPEG-4 takes its quantiser from each picture.
            unsafe { (*picture.as_mut_ptr()).quality = quality };
        }
        picture.set_color_space(matrix(self.choice.codec).1);
        picture.set_color_primaries(color::Primaries::BT709);
        picture.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
        picture.set_color_range(color::Range::MPEG);
        self.frames += 1;
        forget_line();
        self.encoder.send_frame(&picture).map_err(|error| self.trouble("encode", error))?;
        self.drain()?;
        // A failed write may stay unnoticed in FFmpeg's buffers until the end of a long run.
        self.partial.check()
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        forget_line();
        self.encoder.send_eof().map_err(|error| self.trouble("encode", error))?;
        self.drain()?;
        self.muxer.write_trailer().map_err(|error| self.trouble("finish the video", error))?;
        let Self { muxer, encoder, partial, choice, frames, .. } = *self;
        drop(muxer); // flushes; what fails here is noted by the file
        drop(encoder);
        let committed = partial.commit()?;
        let warnings = choice.warning.into_iter().chain(committed.warning).collect();
        let frames = frames as u64;
        Ok(Written { path: committed.path, codec: choice.encoder.into(), warnings, bytes: committed.bytes, frames })
    }
}

/// Names with commas, for messages.
fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::output;

    fn message(output: &Output, has: &dyn Fn(&str) -> bool) -> String {
        choose(output, has).unwrap_err().to_string()
    }

    #[test]
    fn a_missing_encoder_is_replaced_with_a_warning_only_if_none_was_asked_for() {
        let mp4 = output(Path::new("a.mp4"), 16, 16);
        assert_eq!(choose(&mp4, &|_| true).unwrap(), Choice { codec: Codec::H264, encoder: "libx264", warning: None });
        let without = |name: &str| name != "libx264";
        let choice = choose(&mp4, &without).unwrap();
        assert_eq!(choice.encoder, "mpeg4");
        assert!(choice.warning.unwrap().contains("libx264"));
        let asked = Output { codec: Some(Codec::H264), ..mp4.clone() };
        assert!(message(&asked, &without).contains("it has mpeg4"));
        assert!(message(&mp4, &|_| false).contains("neither libx264 nor mpeg4"));
        let webm = output(Path::new("a.webm"), 16, 16);
        assert_eq!(choose(&webm, &|_| true).unwrap().encoder, "libvpx-vp9");
        assert_eq!(choose(&webm, &|name| name == "libvpx").unwrap().encoder, "libvpx");
        assert!(message(&webm, &|name| name == "libx264").contains("neither libvpx-vp9 nor libvpx"));
        let wrong = Output { codec: Some(Codec::H264), ..webm };
        assert!(message(&wrong, &|_| true).contains("holds vp9, vp8, av1"));
        let second = Output { codec: Some(Codec::Av1), ..mp4 };
        assert_eq!(choose(&second, &|name| name != "libaom-av1").unwrap().encoder, "libsvtav1");
    }

    #[test]
    fn quantisers_follow_the_crf() {
        assert_eq!([0, 17, 23, 28, 51].map(quantiser), [1, 2, 4, 8, 31]);
    }
}
