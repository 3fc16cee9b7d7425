//! The writer thread, and the bounded queue in front of it.

use super::fault::{failed, usage};
use super::partial::shown;
use super::{Frame, FrameSink, Output, Written};
use anyhow::Result;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Frames that may wait for the encoder. A decoded chunk has eight; more would only be memory.
const QUEUE: usize = 8;

enum Message {
    Frame(Frame),
    Finish,
}

type Outcome = Result<Option<Written>>;

/// Writes frames in a thread of its own. Dropped before [`Writer::finish`], it leaves nothing behind.
pub struct Writer {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<Outcome>>,
    name: String,
    size: (usize, usize),
}

impl Writer {
    pub(super) fn start(sink: Box<dyn FrameSink + Send>, output: &Output) -> Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let thread = Builder::new()
            .name("video".into())
            .spawn(move || work(sink, &messages))
            .map_err(|cause| failed(format!("cannot start the thread that writes the video: {cause}")))?;
        let size = (output.width, output.height);
        Ok(Self { queue: Some(queue), thread: Some(thread), name: shown(output), size })
    }

    /// Hands over the next frame; waits while the queue is full. Errors: a frame of another size; or what went wrong with
    /// an earlier frame, in which case the output is gone and later calls fail too.
    pub fn write(&mut self, frame: Frame) -> Result<()> {
        let (width, height) = self.size;
        if (frame.width, frame.height) != self.size || frame.data.len() != width * height * 3 {
            return Err(usage(format!(
                "{}: a frame of {}x{} with {} bytes in a video of {width}x{height}",
                self.name,
                frame.width,
                frame.height,
                frame.data.len()
            )));
        }
        let Some(queue) = &self.queue else { return Err(self.ended()) };
        match queue.send(Message::Frame(frame)) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.end().err().unwrap_or_else(|| self.ended())),
        }
    }

    /// Waits until everything is written and the file has its name.
    pub fn finish(mut self) -> Result<Written> {
        if let Some(queue) = &self.queue {
            // A thread that ended early tells why when it is joined.
            let _ = queue.send(Message::Finish);
        }
        match self.end()? {
            Some(written) => Ok(written),
            None => Err(self.ended()),
        }
    }

    /// Closes the queue and takes the thread's result.
    fn end(&mut self) -> Outcome {
        self.queue = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(failed(format!("{}: the thread that writes the video panicked", self.name))),
            None => Ok(None),
        }
    }

    fn ended(&self) -> anyhow::Error {
        failed(format!("{} is not being written any more: an earlier frame failed", self.name))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Joining makes sure that the partial file is gone when this returns.
        let _ = self.end();
    }
}

/// Writes until told to finish. If the queue closes before that, the sink is dropped, and with it its partial file.
fn work(mut sink: Box<dyn FrameSink + Send>, messages: &Receiver<Message>) -> Outcome {
    let mut frames = 0u64;
    for message in messages {
        match message {
            Message::Frame(frame) => {
                sink.write(frame)?;
                frames += 1;
            }
            Message::Finish if frames == 0 => return Err(failed("a video without frames is not written".into())),
            Message::Finish => return sink.finish().map(Some),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::output;
    use crate::{Fault, fault};
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    /// Fails at a given frame and notes whether it was dropped unfinished.
    struct Fragile {
        fails_at: u64,
        frames: u64,
        log: Arc<Mutex<Vec<&'static str>>>,
    }

    impl FrameSink for Fragile {
        fn write(&mut self, _: Frame) -> Result<()> {
            assert!(self.fails_at != 1000, "made to panic");
            self.frames += 1;
            if self.frames == self.fails_at { Err(failed("no more".into())) } else { Ok(()) }
        }
        fn finish(self: Box<Self>) -> Result<Written> {
            self.log.lock().unwrap().push("finish");
            Ok(Written { path: "x".into(), codec: "x".into(), warnings: vec![], bytes: 0, frames: self.frames })
        }
    }

    impl Drop for Fragile {
        fn drop(&mut self) {
            self.log.lock().unwrap().push("drop");
        }
    }

    fn writer(fails_at: u64) -> (Writer, Arc<Mutex<Vec<&'static str>>>) {
        let log = Arc::default();
        let sink = Box::new(Fragile { fails_at, frames: 0, log: Arc::clone(&log) });
        (Writer::start(sink, &output(Path::new("x.gif"), 2, 2)).unwrap(), log)
    }

    fn frame() -> Frame {
        Frame { width: 2, height: 2, data: vec![0; 12] }
    }

    #[test]
    fn frames_arrive_and_the_end_is_told() {
        let (mut writer, log) = writer(u64::MAX);
        for _ in 0..30 {
            writer.write(frame()).unwrap();
        }
        assert_eq!(writer.finish().unwrap().frames, 30);
        assert_eq!(*log.lock().unwrap(), ["finish", "drop"]);
    }

    #[test]
    fn an_error_comes_back_on_a_later_write_and_stays() {
        let (mut writer, _) = writer(3);
        let error = (0..100).find_map(|_| writer.write(frame()).err()).expect("an error");
        assert_eq!(error.to_string(), "no more");
        assert!(writer.write(frame()).unwrap_err().to_string().contains("earlier frame"));
        assert!(writer.finish().is_err());
    }

    #[test]
    fn an_error_of_the_last_frame_comes_back_on_finish() {
        let (mut writer, log) = writer(2);
        writer.write(frame()).unwrap();
        let _ = writer.write(frame());
        assert_eq!(writer.finish().unwrap_err().to_string(), "no more");
        assert_eq!(*log.lock().unwrap(), ["drop"]);
    }

    #[test]
    fn a_panic_is_an_error() {
        let (mut writer, _) = writer(1000);
        let _ = writer.write(frame());
        assert!(writer.finish().unwrap_err().to_string().contains("panicked"));
    }

    #[test]
    fn dropping_drops_the_sink_at_once() {
        let (mut writer, log) = writer(u64::MAX);
        writer.write(frame()).unwrap();
        drop(writer);
        assert_eq!(*log.lock().unwrap(), ["drop"]);
    }

    #[test]
    fn no_frames_and_wrong_frames_are_errors() {
        let (writer, log) = writer(u64::MAX);
        assert!(writer.finish().unwrap_err().to_string().contains("without frames"));
        assert_eq!(*log.lock().unwrap(), ["drop"]);
        let (mut writer, _) = self::writer(u64::MAX);
        let error = writer.write(Frame { width: 3, height: 2, data: vec![0; 18] }).unwrap_err();
        assert_eq!(fault(&error), Some(Fault::Usage));
        assert!(writer.write(Frame { width: 2, height: 2, data: vec![0; 11] }).is_err());
    }
}
