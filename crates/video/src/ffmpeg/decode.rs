//! Demuxing and decoding of given videos, which may be hostile.
//!
//! FFmpeg gets an opened file and no names, only containers that hold their own frames, and no protocols, so a
//! file cannot make it open another. Sizes are bounded before the first picture is decoded.

use super::orientation::Orientation;
use super::{cannot, explain, forget_line, init, line_kept, properties};
use crate::Frame;
use crate::fault::input;
use crate::format::Rate;
use crate::grid::{self, Grid};
use crate::source::{FrameSource, Limits, MAX_METADATA, quoted};
use crate::yuv::{self, Layout, Matrix, Plane};
use anyhow::Result;
use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::format::{Pixel, stream::Stream};
use ffmpeg_next::software::scaling;
use ffmpeg_next::util::frame;
use ffmpeg_next::{Error, Packet, Rational, codec, decoder, ffi, media, packet};
use std::ffi::{CStr, CString, c_int};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::ptr;

/// Containers that are read, by FFmpeg's names: MP4/MOV, Matroska/WebM, AVI, IVF, Ogg, ASF, MPEG-TS and -PS, FLV, and bare
/// H.264 and HEVC.
const CONTAINERS: &CStr = c"mov,matroska,webm,avi,ivf,ogg,asf,mpegts,mpeg,flv,live_flv,h264,hevc";
/// Decoder threads.
const THREADS: i32 = 4;

/// A dictionary that frees itself.
struct Options(*mut ffi::AVDictionary);

impl Options {
    fn set(&mut self, key: &CStr, value: &CStr) {
        // SAFETY: both strings end in a zero and are copied; the pointer is null or a dictionary.
        unsafe { ffi::av_dict_set(&mut self.0, key.as_ptr(), value.as_ptr(), 0) };
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the pointer is null or a dictionary of ours.
        unsafe { ffi::av_dict_free(&mut self.0) };
    }
}

/// Opens the container and reads its header, no pictures.
fn container(path: &Path) -> Result<Input> {
    init();
    forget_line();
    let file = File::open(path).map_err(|cause| input(format!("cannot read {}: {cause}", path.display())))?;
    let mut io = StreamIo::from_read_seek(file).map_err(|error| cannot(path, error))?;
    let mut options = Options(ptr::null_mut());
    options.set(c"format_whitelist", CONTAINERS);
    options.set(c"protocol_whitelist", c"none");
    // SAFETY: the context is ours until `wrap_with_custom_io` takes it together with the stream it reads from;
    // `avformat_open_input` frees it when it fails, and leaves a stream that was given to it alone.
    unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(input(format!("cannot read {}: out of memory", path.display())));
        }
        (*context).pb = io.as_mut_ptr();
        (*context).flags |= ffi::AVFMT_FLAG_CUSTOM_IO;
        match ffi::avformat_open_input(&mut context, ptr::null(), ptr::null_mut(), &mut options.0) {
            0 => Ok(Input::wrap_with_custom_io(context, io)),
            code => Err(cannot(path, Error::from(code))),
        }
    }
}

/// The comment of a video.
pub(crate) fn metadata(path: &Path) -> Result<Option<String>> {
    let input = container(path)?;
    // SAFETY: the context is alive; the entry and its value belong to it, and the text is copied before it goes.
    unsafe {
        let entry = ffi::av_dict_get((*input.as_ptr()).metadata, c"comment".as_ptr(), ptr::null(), 0);
        if entry.is_null() || (*entry).value.is_null() {
            return Ok(None);
        }
        let text = CStr::from_ptr((*entry).value);
        if text.to_bytes().len() as u64 <= MAX_METADATA {
            Ok(Some(text.to_string_lossy().into_owned()))
        } else {
            Ok(None)
        }
    }
}

/// Lets FFmpeg look at the first pictures, with the size limit on the decoders it opens for that.
fn probe(path: &Path, input: &mut Input, limits: &Limits) -> Result<()> {
    let pixels = limits.max_pixels.min(i32::MAX as u64);
    let pixels = CString::new(pixels.to_string()).unwrap_or_default();
    let streams = input.nb_streams() as usize;
    let mut each: Vec<Options> = (0..streams).map(|_| Options(ptr::null_mut())).collect();
    for options in &mut each {
        options.set(c"max_pixels", &pixels);
    }
    let mut pointers: Vec<*mut ffi::AVDictionary> = each.iter().map(|options| options.0).collect();
    // SAFETY: one dictionary for each stream there is, as the function asks; it may replace them, so the new pointers are
    // the ones to free.
    let code = unsafe { ffi::avformat_find_stream_info(input.as_mut_ptr(), pointers.as_mut_ptr()) };
    for (options, pointer) in each.iter_mut().zip(pointers) {
        options.0 = pointer;
    }
    if code < 0 { Err(cannot(path, Error::from(code))) } else { Ok(()) }
}

/// Decodes the best video stream of a file.
pub(crate) struct FfmpegSource {
    input: Input,
    decoder: decoder::Video,
    scaler: Option<(Pixel, scaling::Context)>,
    stream: usize,
    name: String,
    limits: Limits,
    orientation: Orientation,
    /// Seconds of a unit of the stream's times.
    unit: f64,
    /// For pictures at uneven times.
    grid: Option<Grid>,
    /// What is lost or changed in reading.
    lost: Vec<String>,
    path: PathBuf,
    first: Option<(Frame, f64)>,
    size: (usize, usize),
    fps: Option<Rate>,
    frames: Option<u64>,
    given: u64,
    draining: bool,
}

pub(crate) fn read(path: &Path, limits: &Limits) -> Result<Box<dyn FrameSource>> {
    let name = path.display().to_string();
    let mut container = container(path)?;
    for stream in container.streams() {
        // SAFETY: every stream has parameters, for as long as the context lives.
        let (width, height) = unsafe {
            let parameters = (*stream.as_ptr()).codecpar;
            ((*parameters).width, (*parameters).height)
        };
        if width > 0 && height > 0 {
            limits.check_size(&name, width as usize, height as usize)?;
        }
    }
    probe(path, &mut container, limits)?;
    let stream = container.streams().best(media::Type::Video);
    let stream = stream.ok_or_else(|| input(format!("{name} holds no video")))?;
    let index = stream.index();
    let frames = u64::try_from(stream.frames()).ok().filter(|&frames| frames > 0);
    limits.check_frames(&name, frames.unwrap_or(0))?;
    check_whole(path, &stream)?;
    let fps = rate(stream.avg_frame_rate()).or_else(|| rate(stream.rate()));
    let (orientation, angle) = Orientation::of(&stream);
    let unit = f64::from(stream.time_base());
    let mut context = codec::Context::from_parameters(stream.parameters()).map_err(|error| cannot(path, error))?;
    // SAFETY: the context is alive and not yet open.
    unsafe {
        (*context.as_mut_ptr()).max_pixels = limits.max_pixels.min(i32::MAX as u64) as i64;
        (*context.as_mut_ptr()).thread_count = THREADS;
    }
    forget_line();
    let decoder = context.decoder().video().map_err(|error| cannot(path, error))?;
    let mut source = FfmpegSource {
        input: container,
        decoder,
        scaler: None,
        stream: index,
        name,
        limits: *limits,
        orientation,
        unit,
        grid: None,
        lost: Vec::new(),
        path: path.to_owned(),
        first: None,
        size: (0, 0),
        fps,
        frames,
        given: 0,
        draining: false,
    };
    // Only a decoded picture has a size that can be relied on.
    source.first = source.decode()?;
    match &source.first {
        Some((frame, _)) => source.size = (frame.width, frame.height),
        None => return Err(input(format!("{} holds no pictures", source.name))),
    }
    if let Some(angle) = angle {
        source.lost.push(format!(
            "{} is to be shown turned by {angle:.0} degrees: the nearest quarter is taken; to keep it: ffmpeg -i {} -crf 12 \
             upright.mp4",
            source.name,
            quoted(path)
        ));
    }
    source.settle_rate()?;
    Ok(Box::new(source))
}

/// Times of the pictures of a stream in seconds, from their packets; none where the container has none. What cannot be read is
/// for the decoder to find.
fn times(path: &Path, index: usize, unit: f64, limits: &Limits) -> Result<Vec<f64>> {
    let mut input = container(path)?;
    let mut times = Vec::new();
    let mut packet = Packet::empty();
    while times.len() as u64 <= limits.max_frames && packet.read(&mut input).is_ok() {
        // SAFETY: the packet has just been read.
        let hidden = unsafe { (*packet::Ref::as_ptr(&packet)).flags & ffi::AV_PKT_FLAG_DISCARD as c_int != 0 };
        if packet.stream() == index && !hidden {
            let Some(time) = packet.pts().or(packet.dts()) else { return Ok(Vec::new()) };
            times.push(time as f64 * unit);
        }
    }
    Ok(times)
}

/// Refuses a file whose index names pictures behind its end: FFmpeg would give those before and call it the end.
fn check_whole(path: &Path, stream: &Stream) -> Result<()> {
    let length = std::fs::metadata(path).map_or(u64::MAX, |found| found.len());
    // SAFETY: the stream is alive, and an entry is read before anything else happens to it. The function takes a mutable
    // pointer and changes nothing.
    let ends = unsafe {
        let stream = stream.as_ptr().cast_mut();
        let entries = ffi::avformat_index_get_entries_count(stream);
        (0..entries)
            .map(|index| ffi::avformat_index_get_entry(stream, index))
            .filter(|entry| !entry.is_null())
            .map(|entry| (*entry).pos.saturating_add(i64::from((*entry).size())))
            .max()
    };
    match ends {
        Some(end) if u64::try_from(end).is_ok_and(|end| end > length) => {
            Err(input(format!("{} is cut off: {length} bytes of at least {end}", path.display())))
        }
        _ => Ok(()),
    }
}

fn rate(rational: Rational) -> Option<Rate> {
    let (num, den) = (rational.numerator(), rational.denominator());
    Rate::new(u32::try_from(num).ok()?, u32::try_from(den).ok()?).ok()
}

impl FfmpegSource {
    fn damaged(&self, error: Error) -> anyhow::Error {
        let (why, file) = (explain(error), quoted(&self.path));
        input(format!(
            "{}: damaged or cut off after frame {}: {why}; what FFmpeg can make of it: ffmpeg -i {file} -crf 12 whole.mp4",
            self.name, self.given
        ))
    }

    /// Lays pictures at uneven times on a grid.
    fn settle_rate(&mut self) -> Result<()> {
        let times = times(&self.path, self.stream, self.unit, &self.limits)?;
        let Some(rate) = grid::uneven(&times) else { return Ok(()) };
        let file = quoted(&self.path);
        self.lost.push(format!(
            "{} has a varying rate: its {} pictures are laid on an even grid of {rate} a second; for another: ffmpeg -i \
             {file} -vf fps={rate} -crf 12 even.mp4",
            self.name,
            times.len()
        ));
        (self.fps, self.frames, self.grid) = (Some(rate), None, Some(Grid::new(rate)));
        Ok(())
    }

    fn pull(&mut self) -> Result<Option<(Frame, f64)>> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.decode(),
        }
    }

    /// The next picture of the stream and its time in seconds.
    fn decode(&mut self) -> Result<Option<(Frame, f64)>> {
        let mut picture = frame::Video::empty();
        forget_line();
        loop {
            match self.decoder.receive_frame(&mut picture) {
                Ok(()) => {
                    self.given += 1;
                    if self.given == 1 {
                        properties::check(&self.path, &picture)?;
                        self.lost = properties::lost(&self.path, &self.input, self.stream, &picture);
                    }
                    let time = picture.timestamp().map_or(0.0, |time| time as f64 * self.unit);
                    return self.convert(&picture).map(|frame| Some((frame, time)));
                }
                Err(Error::Eof) => return Ok(None),
                Err(Error::Other { errno: ffmpeg_next::error::EAGAIN }) if !self.draining => self.feed()?,
                Err(error) => return Err(self.damaged(error)),
            }
        }
    }

    /// Gives the decoder the next packet, or the end.
    fn feed(&mut self) -> Result<()> {
        loop {
            let mut packet = Packet::empty();
            forget_line();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() != self.stream => {}
                Ok(()) if packet.is_corrupt() => return Err(self.damaged(Error::InvalidData)),
                Ok(()) => return self.decoder.send_packet(&packet).map_err(|error| self.damaged(error)),
                // WebM has no index of pictures: a complaint at the end says that it came too early.
                Err(Error::Eof) if line_kept() => return Err(self.damaged(Error::Eof)),
                Err(Error::Eof) => {
                    self.draining = true;
                    return self.decoder.send_eof().map_err(|error| self.damaged(error));
                }
                Err(error) => return Err(self.damaged(error)),
            }
        }
    }

    fn convert(&mut self, picture: &frame::Video) -> Result<Frame> {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        self.limits.check_size(&self.name, width, height)?;
        let frame = match layout(picture) {
            Some((layout, grey)) => {
                let plane = |index: usize| {
                    if grey && index > 0 {
                        Plane { data: &[], stride: 0 }
                    } else {
                        Plane { data: picture.data(index), stride: picture.stride(index) }
                    }
                };
                yuv::to_rgb([plane(0), plane(1), plane(2)], width, height, &layout)?
            }
            None => self.scale(picture)?,
        };
        let frame = self.orientation.apply(frame);
        if self.given > 1 && (frame.width, frame.height) != self.size {
            let file = quoted(&self.path);
            return Err(input(format!(
                "{} changes its size at frame {}: give it one: ffmpeg -i {file} -crf 12 one-size.mp4",
                self.name, self.given
            )));
        }
        Ok(frame)
    }

    /// Leaves the rarer layouts to swscale.
    fn scale(&mut self, picture: &frame::Video) -> Result<Frame> {
        let (width, height) = (picture.width(), picture.height());
        let cannot = |name: &str, error: Error| input(format!("{name}: a pixel format that is not read: {error}"));
        let fits = |scaler: &(Pixel, scaling::Context)| {
            let definition = scaler.1.input();
            scaler.0 == picture.format() && (definition.width, definition.height) == (width, height)
        };
        if !self.scaler.as_ref().is_some_and(fits) {
            let flags = scaling::Flags::BICUBIC
                | scaling::Flags::ACCURATE_RND
                | scaling::Flags::FULL_CHR_H_INT
                | scaling::Flags::BITEXACT;
            let format = picture.format();
            let mut context = scaling::Context::get(format, width, height, Pixel::RGB24, width, height, flags)
                .map_err(|error| cannot(&self.name, error))?;
            let colour = Colour::of(picture);
            let space = match colour.matrix(width as usize, height as usize) {
                Some(Matrix::BT709) => ffi::SWS_CS_ITU709,
                Some(Matrix::BT2020) => ffi::SWS_CS_BT2020,
                _ => ffi::SWS_CS_ITU601,
            };
            let full = i32::from(colour.full);
            // SAFETY: the context is alive, and the coefficient tables are static.
            unsafe {
                let table = ffi::sws_getCoefficients(space);
                // The same table twice: RGB of more than 8 bits goes there and back by these.
                ffi::sws_setColorspaceDetails(context.as_mut_ptr(), table, full, table, 1, 0, 1 << 16, 1 << 16);
            }
            self.scaler = Some((format, context));
        }
        let Some((_, scaler)) = &mut self.scaler else { return Err(cannot(&self.name, Error::Bug)) };
        let mut rgb = frame::Video::empty();
        scaler.run(picture, &mut rgb).map_err(|error| cannot(&self.name, error))?;
        let row = width as usize * 3;
        let rows = rgb.data(0).chunks(rgb.stride(0)).take(height as usize);
        let data = rows.flat_map(|line| &line[..row]).copied().collect();
        Ok(Frame { width: width as usize, height: height as usize, data })
    }
}

/// What a picture says about its colours, as numbers: decoders copy them from the file unchecked, and a number without a
/// name must not become a value of an enum.
struct Colour {
    space: c_int,
    full: bool,
    location: c_int,
}

const LEFT: c_int = ffi::AVChromaLocation::AVCHROMA_LOC_LEFT as c_int;
const CENTER: c_int = ffi::AVChromaLocation::AVCHROMA_LOC_CENTER as c_int;
const TOPLEFT: c_int = ffi::AVChromaLocation::AVCHROMA_LOC_TOPLEFT as c_int;
const TOP: c_int = ffi::AVChromaLocation::AVCHROMA_LOC_TOP as c_int;
const BOTTOMLEFT: c_int = ffi::AVChromaLocation::AVCHROMA_LOC_BOTTOMLEFT as c_int;
const BOTTOM: c_int = ffi::AVChromaLocation::AVCHROMA_LOC_BOTTOM as c_int;

impl Colour {
    fn of(picture: &frame::Video) -> Self {
        // SAFETY: the picture is alive; a C enum is an integer of this size, and no reference to it is made.
        unsafe {
            let picture = picture.as_ptr();
            let range = (&raw const (*picture).color_range).cast::<c_int>().read();
            Self {
                space: (&raw const (*picture).colorspace).cast::<c_int>().read(),
                full: range == ffi::AVColorRange::AVCOL_RANGE_JPEG as c_int,
                location: (&raw const (*picture).chroma_location).cast::<c_int>().read(),
            }
        }
    }

    /// None for spaces that are no luma and two colour differences.
    fn matrix(&self, width: usize, height: usize) -> Option<Matrix> {
        const BT709: c_int = ffi::AVColorSpace::AVCOL_SPC_BT709 as c_int;
        const BT2020: c_int = ffi::AVColorSpace::AVCOL_SPC_BT2020_NCL as c_int;
        const BT2020_CL: c_int = ffi::AVColorSpace::AVCOL_SPC_BT2020_CL as c_int;
        const FCC: c_int = ffi::AVColorSpace::AVCOL_SPC_FCC as c_int;
        const PAL: c_int = ffi::AVColorSpace::AVCOL_SPC_BT470BG as c_int;
        const NTSC: c_int = ffi::AVColorSpace::AVCOL_SPC_SMPTE170M as c_int;
        const UNSPECIFIED: c_int = ffi::AVColorSpace::AVCOL_SPC_UNSPECIFIED as c_int;
        match self.space {
            BT709 => Some(Matrix::BT709),
            BT2020 | BT2020_CL => Some(Matrix::BT2020),
            FCC | PAL | NTSC => Some(Matrix::BT601),
            UNSPECIFIED => Some(Matrix::by_size(width, height)),
            _ => None,
        }
    }
}

/// How to read the planar Y'CbCr and grey formats; the flag says grey. None for everything else.
fn layout(picture: &frame::Video) -> Option<(Layout, bool)> {
    let (subsampling, depth, full, grey) = match picture.format() {
        Pixel::YUV420P => ((2, 2), 8, false, false),
        Pixel::YUVJ420P => ((2, 2), 8, true, false),
        Pixel::YUV422P => ((2, 1), 8, false, false),
        Pixel::YUVJ422P => ((2, 1), 8, true, false),
        Pixel::YUV444P => ((1, 1), 8, false, false),
        Pixel::YUVJ444P => ((1, 1), 8, true, false),
        Pixel::YUV420P10LE => ((2, 2), 10, false, false),
        Pixel::YUV422P10LE => ((2, 1), 10, false, false),
        Pixel::YUV444P10LE => ((1, 1), 10, false, false),
        Pixel::YUV420P12LE => ((2, 2), 12, false, false),
        Pixel::YUV422P12LE => ((2, 1), 12, false, false),
        Pixel::YUV444P12LE => ((1, 1), 12, false, false),
        Pixel::GRAY8 => ((1, 1), 8, false, true),
        _ => return None,
    };
    // SAFETY: the picture is alive, and the field is an array of integers.
    let strides = unsafe { (*picture.as_ptr()).linesize };
    if strides[..3].iter().any(|&stride| stride < 0) {
        return None; // stored bottom up, which slices cannot express
    }
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let colour = Colour::of(picture);
    let matrix = colour.matrix(width, height)?;
    let (on_column, on_row) = match colour.location {
        LEFT => (true, false),
        CENTER => (false, false),
        TOPLEFT | BOTTOMLEFT => (true, true),
        TOP | BOTTOM => (false, true),
        // JPEG puts colour in the middle, the video codecs on the left.
        _ => (!full, false),
    };
    let full_range = full || colour.full;
    Some((Layout { subsampling, depth, full_range, matrix, on_column, on_row }, grey))
}

impl FrameSource for FfmpegSource {
    fn size(&self) -> (usize, usize) {
        self.size
    }

    fn fps(&self) -> Option<Rate> {
        self.fps
    }

    fn frames(&self) -> Option<u64> {
        self.frames
    }

    fn lost(&self) -> &[String] {
        &self.lost
    }

    fn next(&mut self) -> Result<Option<Frame>> {
        match self.grid.take() {
            Some(mut grid) => {
                let next = grid.next(|| self.pull());
                self.grid = Some(grid);
                next
            }
            None => Ok(self.pull()?.map(|(frame, _)| frame)),
        }
    }
}
