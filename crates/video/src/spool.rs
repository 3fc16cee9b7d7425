//! Frames buffered on disk, for videos that are combined from two: memory does not grow with their length. The file has
//! no name and disappears with the process, however it ends.

use super::Frame;
use super::fault::failed;
use anyhow::{Result, ensure};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};

/// Takes frames.
pub struct Spool {
    file: BufWriter<File>,
    size: Option<(usize, usize)>,
    count: usize,
}

/// Gives them back in their order.
pub struct Frames {
    file: BufReader<File>,
    size: (usize, usize),
    left: usize,
}

impl Spool {
    pub fn new() -> Result<Self> {
        let file = tempfile::tempfile().map_err(|cause| explain(&cause))?;
        Ok(Self { file: BufWriter::new(file), size: None, count: 0 })
    }

    /// Takes the next frame; all have one size.
    pub fn push(&mut self, frame: &Frame) -> Result<()> {
        let size = (frame.width, frame.height);
        ensure!(*self.size.get_or_insert(size) == size, "frames of several sizes in one video");
        self.count += 1;
        self.file.write_all(&frame.data).map_err(|cause| explain(&cause))
    }

    pub fn frames(self) -> Result<Frames> {
        let mut file = self.file.into_inner().map_err(|cause| explain(cause.error()))?;
        file.seek(SeekFrom::Start(0)).map_err(|cause| explain(&cause))?;
        Ok(Frames { file: BufReader::new(file), size: self.size.unwrap_or_default(), left: self.count })
    }
}

impl Frames {
    /// The next frame; none at the end.
    #[allow(clippy::should_implement_trait)] // an error is not the end
    pub fn next(&mut self) -> Result<Option<Frame>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let (width, height) = self.size;
        let mut data = vec![0; 3 * width * height];
        self.file.read_exact(&mut data).map_err(|cause| explain(&cause))?;
        Ok(Some(Frame { width, height, data }))
    }
}

fn explain(cause: &std::io::Error) -> anyhow::Error {
    failed(format!("frames that wait in {}: {cause}", std::env::temp_dir().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(width: usize, fill: u8) -> Frame {
        Frame { width, height: 2, data: (0..6 * width).map(|i| fill + i as u8).collect() }
    }

    #[test]
    fn frames_come_back_in_their_order() {
        let mut spool = Spool::new().unwrap();
        (0..3).for_each(|fill| spool.push(&frame(4, 10 * fill)).unwrap());
        assert!(spool.push(&frame(5, 0)).is_err());
        let mut frames = spool.frames().unwrap();
        (0..3).for_each(|fill| assert_eq!(frames.next().unwrap().unwrap(), frame(4, 10 * fill)));
        assert!(frames.next().unwrap().is_none());
        assert!(Spool::new().unwrap().frames().unwrap().next().unwrap().is_none());
    }
}
