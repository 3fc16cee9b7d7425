//! y4m: uncompressed Y'CbCr with a text header, the format programs pipe video in.
//!
//! Written as `C420mpeg2` (or `C422`, `C444` by `--pix-fmt`), limited range. The format has no field for the matrix: it is
//! the one that readers guess by the size, BT.601 for small videos and BT.709 for large ones ([`Matrix::by_size`], which
//! is mpv's rule). FFmpeg takes every y4m for BT.601 when it converts it to RGB, and passes the samples on untouched when it
//! encodes a video. The header says `XCOLORRANGE=LIMITED` (FFmpeg's extension) and `XMATRIX=` (ours: unknown `X` fields are
//! comments to everyone else). There is no place for a manifest.

use super::fault::{failed, input, write_failed};
use super::format::{PixelFormat, Rate};
use super::partial::{PartialFile, shown};
use super::source::{FrameSource, Limits, quoted};
use super::yuv::{Layout, Matrix, Plane, from_rgb, to_rgb};
use super::{Format, Frame, FrameSink, Output, Written};
use anyhow::Result;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &str = "YUV4MPEG2";
/// Longest header line that is read; real ones have about a hundred bytes.
const MAX_LINE: u64 = 1024;

/// Refuses what y4m cannot hold.
pub(super) fn check(output: &Output) -> Result<()> {
    let format = output.pix_fmt.unwrap_or(PixelFormat::Yuv420p);
    if format.depth() > 8 {
        return Err(super::fault::usage(format!(
            "{}: y4m is written with 8 bits: use --pix-fmt yuv420p, yuv422p or yuv444p",
            shown(output)
        )));
    }
    format.check_size(output.width, output.height)
}

/// Writes y4m to a file or a pipe.
pub(super) struct Y4mSink {
    stream: Box<dyn Write + Send>,
    /// The file to commit; none for a pipe.
    partial: Option<PartialFile>,
    name: String,
    path: PathBuf,
    format: PixelFormat,
    matrix: Matrix,
    frames: u64,
    bytes: u64,
}

impl Y4mSink {
    pub fn file(output: &Output) -> Result<Self> {
        let partial = PartialFile::create(output)?;
        let stream = Box::new(partial.writer()?);
        Self::start(output, stream, Some(partial))
    }

    pub fn stdout(output: &Output) -> Result<Self> {
        Self::start(output, standard_output()?, None)
    }

    /// Writes to any stream; tests pass pipes.
    pub fn start(output: &Output, stream: Box<dyn Write + Send>, partial: Option<PartialFile>) -> Result<Self> {
        let format = output.pix_fmt.unwrap_or(PixelFormat::Yuv420p);
        let space = match format.subsampling() {
            (2, 2) => "420mpeg2",
            (2, 1) => "422",
            _ => "444",
        };
        let matrix = Matrix::by_size(output.width, output.height);
        let named = if matrix == Matrix::BT709 { "BT709" } else { "BT601" };
        let header = format!(
            "{MAGIC} W{} H{} F{}:{} Ip A1:1 C{space} XCOLORRANGE=LIMITED XMATRIX={named}\n",
            output.width, output.height, output.fps.num, output.fps.den
        );
        let (name, path) = (shown(output), output.path.clone());
        let mut sink = Self { stream, partial, name, path, format, matrix, frames: 0, bytes: 0 };
        sink.send(header.as_bytes())?;
        Ok(sink)
    }

    /// Whole frames, flushed: the reader of the pipe gets each frame as soon as it is written.
    fn send(&mut self, data: &[u8]) -> Result<()> {
        let sent = self.stream.write_all(data).and_then(|()| self.stream.flush());
        sent.map_err(|cause| write_failed(&self.name, &cause))?;
        self.bytes += data.len() as u64;
        Ok(())
    }
}

impl FrameSink for Y4mSink {
    fn write(&mut self, frame: Frame) -> Result<()> {
        let planes = from_rgb(&frame, self.format, self.matrix);
        let mut data = b"FRAME\n".to_vec();
        planes.iter().for_each(|plane| data.extend_from_slice(plane));
        self.send(&data)?;
        self.frames += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let Self { stream, partial, path, frames, bytes, .. } = *self;
        drop(stream);
        let mut written = Written { path, codec: "y4m".into(), warnings: Vec::new(), bytes, frames };
        if let Some(partial) = partial {
            let committed = partial.commit()?;
            written.path = committed.path;
            written.warnings.extend(committed.warning);
        }
        Ok(written)
    }
}

/// Standard output without the line buffer of [`std::io::stdout`], which would search every picture for line ends.
fn standard_output() -> Result<Box<dyn Write + Send>> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        let own = std::io::stdout().as_fd().try_clone_to_owned();
        Ok(Box::new(File::from(own.map_err(|cause| write_failed("standard output", &cause))?)))
    }
    #[cfg(not(unix))]
    Ok(Box::new(std::io::stdout()))
}

/// True if a file that starts with these bytes is y4m.
pub(super) fn is_y4m(start: &[u8]) -> bool {
    start.starts_with(MAGIC.as_bytes())
}

/// Reads y4m from a file.
pub(super) struct Y4mSource {
    stream: BufReader<File>,
    name: String,
    layout: Layout,
    grey: bool,
    width: usize,
    height: usize,
    fps: Option<Rate>,
    frames: u64,
    lost: Vec<String>,
}

impl Y4mSource {
    pub fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|cause| input(format!("cannot read {name}: {cause}")))?;
        let mut stream = BufReader::new(file);
        let Some(line) = line(&mut stream, &name)? else { return Err(input(format!("{name} is empty"))) };
        let mut fields = line.split(' ');
        if fields.next() != Some(MAGIC) {
            return Err(input(format!("{name} is no y4m file")));
        }
        let (mut width, mut height, mut fps, mut space, mut full, mut matrix) = (0, 0, None, "420jpeg", false, None);
        let mut lost = Vec::new();
        for field in fields.filter(|field| !field.is_empty()) {
            let bad = || input(format!("{name}: a y4m header with a wrong field {field}"));
            let mut letters = field.chars();
            let letter = letters.next();
            let value = letters.as_str();
            match letter {
                Some('W') => width = value.parse::<usize>().map_err(|_| bad())?,
                Some('H') => height = value.parse::<usize>().map_err(|_| bad())?,
                Some('F') => {
                    let (num, den) = value.split_once(':').ok_or_else(bad)?;
                    let (num, den) = (num.parse().map_err(|_| bad())?, den.parse().map_err(|_| bad())?);
                    fps = Rate::new(num, den).ok(); // 0:0 stands for unknown
                }
                Some('A') => {
                    let (across, down) = value.split_once(':').ok_or_else(bad)?;
                    if across != down && across != "0" && down != "0" {
                        lost.push(format!(
                            "{name} has pixels of {value}, which are taken for square: things get another shape; to keep it: \
                             ffmpeg -i {} -vf scale=iw*sar:ih,setsar=1 square.y4m",
                            quoted(path)
                        ));
                    }
                }
                Some('C') => space = value,
                Some('I') if !matches!(value, "p" | "?") => {
                    return Err(input(format!(
                        "{name} is interlaced: separate its fields first: ffmpeg -i {} -vf bwdif=send_frame progressive.y4m",
                        quoted(path)
                    )));
                }
                Some('X') => match value {
                    "COLORRANGE=FULL" => full = true,
                    "MATRIX=BT709" => matrix = Some(Matrix::BT709),
                    "MATRIX=BT601" => matrix = Some(Matrix::BT601),
                    _ => {}
                },
                _ => {}
            }
        }
        limits.check_size(&name, width, height)?;
        let (subsampling, on_column, on_row) = match space {
            "420" | "420jpeg" => ((2, 2), false, false),
            "420mpeg2" => ((2, 2), true, false),
            "420paldv" => ((2, 2), true, true),
            "422" => ((2, 1), true, true),
            "444" | "mono" => ((1, 1), true, true),
            other => {
                return Err(input(format!(
                    "{name}: y4m with C{other} is not read (420*, 422, 444 and mono of 8 bits are): ffmpeg -i {} -pix_fmt yuv444p \
                     8bit.y4m",
                    quoted(path)
                )));
            }
        };
        let matrix = matrix.unwrap_or_else(|| Matrix::by_size(width, height));
        let layout = Layout { subsampling, depth: 8, full_range: full, matrix, on_column, on_row };
        Ok(Self { stream, name, layout, grey: space == "mono", width, height, fps, frames: 0, lost })
    }

    fn frame(&mut self) -> Result<Option<Frame>> {
        let Some(line) = line(&mut self.stream, &self.name)? else { return Ok(None) };
        if line != "FRAME" && !line.starts_with("FRAME ") {
            return Err(input(format!("{}: damaged after frame {}", self.name, self.frames)));
        }
        let (chroma_width, chroma_height) = self.layout.chroma_size(self.width, self.height);
        let chroma = if self.grey { 0 } else { chroma_width * chroma_height };
        let luma = self.width * self.height;
        let mut data = vec![0; luma + 2 * chroma];
        self.stream
            .read_exact(&mut data)
            .map_err(|cause| input(format!("{}: cut off in frame {}: {cause}", self.name, self.frames + 1)))?;
        self.frames += 1;
        let (first, rest) = data.split_at(luma);
        let (second, third) = rest.split_at(chroma);
        let strides = [self.width, chroma_width, chroma_width];
        let planes = [first, second, third];
        let planes = [0, 1, 2].map(|index| Plane { data: planes[index], stride: strides[index] });
        to_rgb(planes, self.width, self.height, &self.layout).map(Some)
    }
}

impl FrameSource for Y4mSource {
    fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn fps(&self) -> Option<Rate> {
        self.fps
    }

    fn lost(&self) -> &[String] {
        &self.lost
    }

    fn next(&mut self) -> Result<Option<Frame>> {
        self.frame()
    }
}

/// One line without its end; none at the end of the file.
fn line(stream: &mut BufReader<File>, name: &str) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
    read.map_err(|cause| input(format!("cannot read {name}: {cause}")))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(input(format!("{name}: a y4m header line without an end")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| input(format!("{name}: a y4m header that is no text")))
}

/// The sink for an output of this format.
pub(super) fn open(output: &Output) -> Result<Box<dyn FrameSink + Send>> {
    Ok(match output.format {
        Format::Y4mStdout => Box::new(Y4mSink::stdout(output)?),
        Format::Y4m => Box::new(Y4mSink::file(output)?),
        other => return Err(failed(format!("{other} is not y4m"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{output, picture};
    use crate::{Fault, fault};

    #[test]
    fn a_closed_pipe_has_its_own_kind() {
        let (reader, writer) = std::io::pipe().unwrap();
        let output = Output { format: Format::Y4mStdout, ..output(Path::new("-"), 64, 64) };
        let mut sink = Y4mSink::start(&output, Box::new(writer), None).unwrap();
        sink.write(picture(64, 64, 0)).unwrap();
        drop(reader);
        let error = sink.write(picture(64, 64, 1)).unwrap_err();
        assert_eq!(fault(&error), Some(Fault::BrokenPipe), "{error:#}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_device_is_an_error() {
        let output = Output { format: Format::Y4mStdout, ..output(Path::new("-"), 64, 64) };
        let full = File::create("/dev/full").unwrap();
        let error = Y4mSink::start(&output, Box::new(full), None).err().unwrap();
        assert_eq!(fault(&error), Some(Fault::DiskFull), "{error:#}");
    }

    #[test]
    fn damaged_headers_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bad.y4m");
        let open = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            Y4mSource::open(&path, &Limits::default())
        };
        let huge = "YUV4MPEG2 W100000 H100000 F8:1 C420\n";
        let endless = [b"YUV4MPEG2 ".as_slice(), &[b'X'; 5000]].concat();
        for text in [
            b"".as_slice(),
            b"YUV4MPEG2",
            b"YUV4MPEG2 W4\n",
            b"YUV4MPEG2 W4 H-4\n",
            b"YUV4MPEG2 W4 H4 F8:1 C411\n",
            b"YUV4MPEG2 W4 H4 F8:1 It\n",
            b"YUV4MPEG2 W4 H4 F8\n",
            b"YUV4MPEG2 \xff\n",
            huge.as_bytes(),
            &endless,
        ] {
            let error = open(text).err().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(text)));
            assert_eq!(fault(&error), Some(Fault::Input));
        }
        let mut cut = open(b"YUV4MPEG2 W4 H4 F8:1 Cmono\nFRAME\n0123456789abcdefFRAME\n0123").unwrap();
        assert!(cut.frame().unwrap().is_some());
        assert!(cut.frame().unwrap_err().to_string().contains("cut off in frame 2"));
    }
}
