//! GIF: 256 colours for each frame, chosen frame by frame, looping without end. The manifest goes into a comment
//! extension (GIF89a, section 24) before the trailer.
//!
//! Delays count in hundredths of a second, so 8 frames per second alternate between 12 and 13 of them; the running time
//! stays right to the hundredth.

use super::fault::{failed, input, usage};
use super::format::Rate;
use super::grid::{self, Grid};
use super::partial::{PartialFile, TrackedFile, shown};
use super::source::{FrameSource, Limits, MAX_METADATA, quoted, transparent};
use super::{Frame, FrameSink, Output, Written};
use anyhow::Result;
use image::codecs::gif::{GifDecoder, GifEncoder, Repeat};
use image::{AnimationDecoder, Delay, ImageDecoder, RgbaImage};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

const TRAILER: u8 = 0x3b;

/// Refuses what a GIF cannot hold.
pub(super) fn check(output: &Output) -> Result<()> {
    if output.width > 0xffff || output.height > 0xffff {
        return Err(usage(format!("{}: a GIF is at most 65535x65535", shown(output))));
    }
    let fps = output.fps.as_f64();
    if !(0.002..=50.0).contains(&fps) {
        return Err(usage(format!(
            "{}: a GIF shows at most 50 frames per second, and at least one in 500 s: use another --fps or .mp4",
            shown(output)
        )));
    }
    Ok(())
}

/// NeuQuant looks at every n-th pixel, n from 1 (best) to 30. Small pictures need all of theirs (at 144x96 every tenth
/// costs 5 dB); large ones lose nothing and would take half a second each.
fn sampling(width: usize, height: usize) -> i32 {
    (width * height / 32768).clamp(1, 10) as i32
}

/// Hundredths of a second from the start until frame `count`.
fn hundredths(count: u64, fps: Rate) -> u64 {
    let (num, den) = (u64::from(fps.num), u64::from(fps.den));
    (count * 200 * den + num) / (2 * num)
}

/// Writes a GIF.
pub(super) struct GifSink {
    encoder: GifEncoder<BufWriter<TrackedFile>>,
    partial: PartialFile,
    metadata: Option<String>,
    fps: Rate,
    frames: u64,
}

impl GifSink {
    pub fn open(output: &Output) -> Result<Self> {
        let partial = PartialFile::create(output)?;
        let sampling = sampling(output.width, output.height);
        let mut encoder = GifEncoder::new_with_speed(BufWriter::new(partial.writer()?), sampling);
        encoder.set_repeat(Repeat::Infinite).map_err(|cause| failed(format!("cannot start the GIF: {cause}")))?;
        Ok(Self { encoder, partial, metadata: output.metadata.clone(), fps: output.fps, frames: 0 })
    }
}

impl FrameSink for GifSink {
    fn write(&mut self, frame: Frame) -> Result<()> {
        let rgba = frame.data.chunks_exact(3).flat_map(|rgb| [rgb[0], rgb[1], rgb[2], 255]).collect();
        let Some(image) = RgbaImage::from_raw(frame.width as u32, frame.height as u32, rgba) else {
            return Err(failed(format!("frame {} has the wrong size", self.frames)));
        };
        let delay = hundredths(self.frames + 1, self.fps) - hundredths(self.frames, self.fps);
        let delay = Delay::from_numer_denom_ms(10 * delay as u32, 1); // at most 10 * 50 000
        let encoded = self.encoder.encode_frame(image::Frame::from_parts(image, 0, 0, delay));
        self.partial.check()?;
        encoded.map_err(|cause| failed(format!("cannot encode frame {} as GIF: {cause}", self.frames)))?;
        self.frames += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let Self { encoder, partial, metadata, frames, .. } = *self;
        drop(encoder); // writes the trailer; what went wrong shows in the partial file
        partial.check()?;
        if let Some(metadata) = metadata {
            let mut comment = vec![0x21, 0xfe];
            for block in metadata.as_bytes().chunks(255) {
                comment.push(block.len() as u8);
                comment.extend_from_slice(block);
            }
            comment.extend([0, TRAILER]);
            let mut file = partial.writer()?;
            let written = file.seek(SeekFrom::End(-1)).and_then(|_| file.write_all(&comment));
            written.map_err(|cause| partial.explain(&cause))?;
        }
        let committed = partial.commit()?;
        let warnings = committed.warning.into_iter().collect();
        Ok(Written { path: committed.path, codec: "gif".into(), warnings, bytes: committed.bytes, frames })
    }
}

/// True if a file that starts with these bytes is a GIF.
pub(super) fn is_gif(start: &[u8]) -> bool {
    start.starts_with(b"GIF87a") || start.starts_with(b"GIF89a")
}

/// What the blocks of a GIF say besides pictures.
#[derive(Debug, Default, PartialEq)]
struct Scan {
    frames: u64,
    /// How long each picture stays, in hundredths of a second.
    delays: Vec<u64>,
    comment: Option<String>,
}

/// A last picture that stays this many times longer than the others waits for the loop, and says nothing of the rate.
const WAIT: u64 = 2;

impl Scan {
    /// Rate of the pictures, and whether they are to be laid on its grid.
    fn fps(&self) -> Option<(Rate, bool)> {
        if let Some(rate) = grid::uneven(&self.times()) {
            return Some((rate, true));
        }
        let mut sorted = self.delays.clone();
        sorted.sort_unstable();
        let usual = *sorted.get(sorted.len() / 2)?;
        let last = self.delays.last().map_or(0, |&last| if last > WAIT * usual { usual } else { last });
        let total = self.delays[..self.delays.len() - 1].iter().sum::<u64>() + last;
        if total == 0 {
            return None; // no delays, or nothing but zeros, which viewers read as they like
        }
        let frames = self.delays.len() as u64;
        let exact = 100.0 * frames as f64 / total as f64;
        // Rounding to hundredths hides whole rates (49 frames at 8 fps last 612.5): the nearest one that explains them.
        let whole = Rate::new(exact.round().max(1.0) as u32, 1).ok()?;
        let rounded = |delay: &u64| delay.abs_diff(100 / u64::from(whole.num)) <= 1;
        if hundredths(frames, whole).abs_diff(total) <= 1 && self.delays[..self.delays.len() - 1].iter().all(rounded) {
            return Some((whole, false));
        }
        Some((Rate::new(u32::try_from(100 * frames).ok()?, u32::try_from(total).ok()?).ok()?, false))
    }

    /// When each picture comes, in seconds.
    fn times(&self) -> Vec<f64> {
        let mut at = 0;
        let times = self.delays.iter().map(|delay| {
            let time = at as f64 / 100.0;
            at += delay;
            time
        });
        times.collect()
    }
}

/// Walks through the blocks of a GIF without decoding pictures. `max_frames` bounds the walk.
fn scan(path: &Path, limits: &Limits) -> Result<Scan> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|cause| input(format!("cannot read {name}: {cause}")))?;
    let mut blocks = Blocks { stream: BufReader::new(file), name };
    let header: [u8; 13] = blocks.take()?;
    blocks.skip_palette(header[10])?;
    let (mut scan, mut delay) = (Scan::default(), 0);
    loop {
        match blocks.take::<1>()?[0] {
            TRAILER => return Ok(scan),
            0x2c => {
                let descriptor: [u8; 9] = blocks.take()?;
                blocks.skip_palette(descriptor[8])?;
                blocks.take::<1>()?; // the code size
                blocks.sub_blocks(|_| Ok(()))?;
                scan.frames += 1;
                scan.delays.push(std::mem::take(&mut delay));
                limits.check_frames(&blocks.name, scan.frames)?;
            }
            0x21 => match blocks.take::<1>()?[0] {
                0xf9 => {
                    blocks.sub_blocks(|block| {
                        delay = block.get(1..3).map_or(0, |two| u64::from(u16::from_le_bytes([two[0], two[1]])));
                        Ok(())
                    })?;
                }
                0xfe => {
                    let mut text = Vec::new();
                    let name = blocks.name.clone();
                    blocks.sub_blocks(|block| {
                        text.extend_from_slice(block);
                        if text.len() as u64 > MAX_METADATA {
                            Err(input(format!("{name}: a comment larger than {MAX_METADATA} bytes")))
                        } else {
                            Ok(())
                        }
                    })?;
                    scan.comment = Some(String::from_utf8_lossy(&text).into_owned());
                }
                _ => blocks.sub_blocks(|_| Ok(()))?,
            },
            other => return Err(input(format!("{}: an unknown block {other:#04x}", blocks.name))),
        }
    }
}

struct Blocks {
    stream: BufReader<File>,
    name: String,
}

impl Blocks {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.stream.read_exact(bytes).map_err(|cause| input(format!("{}: the GIF is cut off: {cause}", self.name)))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn skip_palette(&mut self, flags: u8) -> Result<()> {
        if flags & 0x80 == 0 {
            return Ok(());
        }
        let mut palette = [0; 768];
        self.fill(&mut palette[..3 << ((flags & 7) + 1)])
    }

    fn sub_blocks(&mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut block = [0; 255];
        loop {
            let length = usize::from(self.take::<1>()?[0]);
            if length == 0 {
                return Ok(());
            }
            self.fill(&mut block[..length])?;
            each(&block[..length])?;
        }
    }
}

/// The text of the last comment.
pub(super) fn metadata(path: &Path) -> Result<Option<String>> {
    Ok(scan(path, &Limits { max_frames: u64::MAX, ..Limits::default() })?.comment)
}

/// Reads the frames of a GIF as they are shown. Transparent places are black.
pub(super) struct GifSource {
    pictures: image::Frames<'static>,
    size: (usize, usize),
    fps: Option<Rate>,
    count: u64,
    name: String,
    times: VecDeque<f64>,
    /// For pictures at uneven times.
    grid: Option<Grid>,
    /// Decoded to see whether it is transparent.
    first: Option<(Frame, f64)>,
    /// Whether a picture was so far.
    transparent: bool,
    lost: Vec<String>,
}

impl GifSource {
    pub fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let name = path.display().to_string();
        let scan = scan(path, limits)?;
        let file = File::open(path).map_err(|cause| input(format!("cannot read {name}: {cause}")))?;
        let explain = |cause| input(format!("cannot read {name}: {cause}"));
        let mut decoder = GifDecoder::new(BufReader::new(file)).map_err(explain)?;
        let (width, height) = decoder.dimensions();
        limits.check_size(&name, width as usize, height as usize)?;
        let mut bounds = image::Limits::default();
        (bounds.max_image_width, bounds.max_image_height) = (Some(width), Some(height));
        bounds.max_alloc = Some(16 * u64::from(width) * u64::from(height) + (1 << 20));
        decoder.set_limits(bounds).map_err(explain)?;
        let size = (width as usize, height as usize);
        let mut source = Self {
            pictures: decoder.into_frames(),
            size,
            fps: None,
            count: scan.frames,
            name,
            times: scan.times().into(),
            grid: None,
            first: None,
            transparent: false,
            lost: Vec::new(),
        };
        if let Some((rate, uneven)) = scan.fps() {
            source.fps = Some(rate);
            if uneven {
                source.grid = Some(Grid::new(rate));
                let name = &source.name;
                source.lost.push(format!(
                    "{name} has a varying rate: its {} pictures are laid on an even grid of {rate} a second; for another: \
                     ffmpeg -i {} -vf fps={rate} -crf 12 even.mp4",
                    scan.frames,
                    quoted(path)
                ));
            }
        }
        source.first = source.decode()?;
        if source.transparent {
            source.lost.push(transparent(path, ""));
        }
        Ok(source)
    }

    fn pull(&mut self) -> Result<Option<(Frame, f64)>> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.decode(),
        }
    }

    /// The next picture and its time in seconds.
    fn decode(&mut self) -> Result<Option<(Frame, f64)>> {
        let Some(picture) = self.pictures.next() else { return Ok(None) };
        let picture = picture.map_err(|cause| input(format!("cannot read {}: {cause}", self.name)))?.into_buffer();
        self.transparent |= picture.pixels().any(|pixel| pixel[3] == 0);
        let data =
            picture.pixels().flat_map(|pixel| if pixel[3] == 0 { [0; 3] } else { [pixel[0], pixel[1], pixel[2]] });
        let frame = Frame { width: self.size.0, height: self.size.1, data: data.collect() };
        Ok(Some((frame, self.times.pop_front().unwrap_or_default())))
    }
}

impl FrameSource for GifSource {
    fn size(&self) -> (usize, usize) {
        self.size
    }

    fn fps(&self) -> Option<Rate> {
        self.fps
    }

    fn frames(&self) -> Option<u64> {
        self.grid.is_none().then_some(self.count)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_keep_the_running_time() {
        let fps = Rate { num: 8, den: 1 };
        let delays: Vec<u64> = (0..8).map(|frame| hundredths(frame + 1, fps) - hundredths(frame, fps)).collect();
        assert_eq!(delays, [13, 12, 13, 12, 13, 12, 13, 12]);
        assert_eq!(hundredths(49, fps), 613);
    }

    fn scanned(delays: impl IntoIterator<Item = u64>) -> Scan {
        let delays: Vec<u64> = delays.into_iter().collect();
        Scan { frames: delays.len() as u64, delays, comment: None }
    }

    #[test]
    fn rates_come_back() {
        for num in [1, 6, 7, 8, 12, 15, 24, 25, 30] {
            let fps = Rate { num, den: 1 };
            let delays = |frames| (0..frames).map(move |frame| hundredths(frame + 1, fps) - hundredths(frame, fps));
            assert_eq!(scanned(delays(49)).fps(), Some((fps, false)));
            assert_eq!(scanned(delays(1000)).fps(), Some((fps, false)));
        }
        // as ffmpeg writes 8 a second: it begins with 12
        let other = (0..49).map(|frame| 12 + frame % 2);
        assert_eq!(scanned(other.clone()).fps(), Some((Rate { num: 8, den: 1 }, false)));
        // and with a pause before it loops
        assert_eq!(scanned(other.chain([300])).fps(), Some((Rate { num: 8, den: 1 }, false)));
        assert_eq!(scanned([33, 33, 34]).fps(), Some((Rate { num: 3, den: 1 }, false)));
        let odd = (0..49).map(|frame| 13 + u64::from(frame % 3 == 0));
        assert_eq!(scanned(odd).fps(), Some((Rate { num: 2450, den: 327 }, false)));
        assert_eq!(scanned([0; 4]).fps(), None);
        assert_eq!(scanned([]).fps(), None);
    }

    #[test]
    fn uneven_pictures_come_on_a_grid() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.gif");
        let mut encoder = GifEncoder::new(File::create(&path).unwrap());
        for (index, delay) in [10, 10, 50, 10, 10, 10].into_iter().enumerate() {
            let image = RgbaImage::from_pixel(4, 4, image::Rgba([40 * index as u8, 0, 0, 255]));
            let delay = Delay::from_numer_denom_ms(10 * delay, 1);
            encoder.encode_frame(image::Frame::from_parts(image, 0, 0, delay)).unwrap();
        }
        drop(encoder);
        let reader = crate::read(&path, &Limits::default()).unwrap();
        assert_eq!((reader.fps(), reader.frames()), (Some(Rate { num: 10, den: 1 }), None));
        assert!(
            reader.lost()[0].contains("varying rate") && reader.lost()[0].contains("ffmpeg -i"),
            "{:?}",
            reader.lost()
        );
        let reds: Vec<u8> = reader.map(|frame| frame.unwrap().data[0]).collect();
        assert_eq!(reds, [0, 40, 80, 80, 80, 80, 80, 120, 160, 200]);
    }

    #[test]
    fn transparency_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.gif");
        for (alpha, told) in [(255, 0), (0, 1)] {
            let mut image = RgbaImage::from_pixel(4, 4, image::Rgba([40, 0, 0, 255]));
            image.put_pixel(1, 1, image::Rgba([0, 0, 0, alpha]));
            let delay = Delay::from_numer_denom_ms(125, 1);
            let mut encoder = GifEncoder::new(File::create(&path).unwrap());
            encoder.encode_frame(image::Frame::from_parts(image, 0, 0, delay)).unwrap();
            drop(encoder);
            let reader = crate::read(&path, &Limits::default()).unwrap();
            let said = reader.lost().iter().filter(|lost| lost.contains("transparent") && lost.contains("ffmpeg -i"));
            assert_eq!(said.count(), told);
            assert_eq!(reader.count(), 1);
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bad.gif");
        let screen = b"GIF89a\x02\0\x02\0\0\0\0";
        for tail in [b"".as_slice(), b"\x2c", b"\x21\xfe\xffabc", b"\x99", b"\x21\xfe\x01a"] {
            std::fs::write(&path, [screen.as_slice(), tail].concat()).unwrap();
            assert!(scan(&path, &Limits::default()).is_err(), "{tail:?}");
        }
        std::fs::write(&path, [screen.as_slice(), b"\x21\xfe\x02hi\x00\x3b"].concat()).unwrap();
        assert_eq!(metadata(&path).unwrap().as_deref(), Some("hi"));
    }
}
