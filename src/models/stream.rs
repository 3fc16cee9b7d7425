//! The units of a network (blocks of a transformer, levels of a UNet): all of them in memory, or each read again for every
//! pass while the one before it computes.
//!
//! A pass goes through the units in order and through each of them once with all its rows, so a unit that is streamed is
//! read once for a pass. The loader decides where it is read from: files, or copies in host memory. At most two
//! units are loaded, the current one and the next one. A unit that is read again is the same unit, so the network's
//! results do not depend on where its units are.

use candle_core::{Device, Error, Result};
use rayon::Yield;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Between two looks at a unit that is being read.
const PAUSE: Duration = Duration::from_micros(100);

/// Units that are alive at once where they are streamed.
pub const ALIVE: usize = 2;

/// All units of a network, in the order in which a pass goes through them.
#[derive(Debug)]
pub struct Stream<B>(Units<B>);

#[derive(Debug)]
enum Units<B> {
    Resident(Vec<Arc<B>>),
    Streamed(Streamed<B>),
}

impl<B: Send + Sync + 'static> Stream<B> {
    /// Reads all `count` units with `load`, which gets their indices.
    pub fn resident(count: usize, load: impl Fn(usize) -> Result<B>) -> Result<Self> {
        let units = (0..count).map(|index| Ok(Arc::new(load(index)?)));
        Ok(Self(Units::Resident(units.collect::<Result<_>>()?)))
    }

    /// Reads every unit once, so that missing and wrong tensors are found now, and keeps none but the first. `device`: where
    /// `load` puts them.
    pub fn streamed(
        count: usize,
        device: &Device,
        load: impl Fn(usize) -> Result<B> + Send + Sync + 'static,
    ) -> Result<Self> {
        let streamed = Streamed { count, device: device.clone(), load: Arc::new(load), ahead: Mutex::new(None) };
        for index in 0..count {
            streamed.get(index)?;
        }
        Ok(Self(Units::Streamed(streamed)))
    }

    /// The number of units.
    pub fn len(&self) -> usize {
        match &self.0 {
            Units::Resident(units) => units.len(),
            Units::Streamed(streamed) => streamed.count,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Unit `index`. Where units are streamed the caller has dropped the one before, and the next one is read from now on;
    /// the first follows the last, for the next pass.
    pub fn get(&self, index: usize) -> Result<Arc<B>> {
        match &self.0 {
            Units::Resident(units) => Ok(units[index].clone()),
            Units::Streamed(streamed) => streamed.get(index),
        }
    }
}

/// Reads the unit of an index.
type Load<B> = Arc<dyn Fn(usize) -> Result<B> + Send + Sync>;

/// Units that are read when their turn comes.
struct Streamed<B> {
    count: usize,
    device: Device,
    load: Load<B>,
    /// The unit that is being read, or has been.
    ahead: Mutex<Option<(usize, JoinHandle<Result<B>>)>>,
}

impl<B: Send + Sync + 'static> Streamed<B> {
    fn get(&self, index: usize) -> Result<Arc<B>> {
        // what was queued on a device still needs the unit before this one, whose memory the next one is to take
        self.device.synchronize()?;
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unit = None;
        // joined even where a pass ended early and another unit is wanted: what it holds is gone before more is read
        if let Some((read, thread)) = ahead.take() {
            let got = join(thread).map_err(|_| Error::Msg(format!("reading block {read} failed")))?;
            unit = Some(got?).filter(|_| read == index);
        }
        let unit = match unit {
            Some(unit) => unit,
            None => read(&self.load, index, &self.device)?,
        };
        let next = (index + 1) % self.count;
        let (load, device) = (self.load.clone(), self.device.clone());
        let thread = Builder::new().name(format!("block {next}")).spawn(move || read(&load, next, &device))?;
        *ahead = Some((next, thread));
        Ok(Arc::new(unit))
    }
}

impl<B> fmt::Debug for Streamed<B> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} streamed units", self.count)
    }
}

impl<B> Drop for Streamed<B> {
    /// Nothing is left behind that holds memory.
    fn drop(&mut self) {
        let ahead = self.ahead.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        drop(ahead.map(|(_, thread)| join(thread)));
    }
}

/// Waits for a thread that reads. It may need this one to unpack what it reads, where this is a thread of the pool.
fn join<B>(thread: JoinHandle<Result<B>>) -> std::thread::Result<Result<B>> {
    while !thread.is_finished() {
        match rayon::yield_now() {
            Some(Yield::Executed) => {}
            Some(Yield::Idle) => std::thread::sleep(PAUSE),
            None => break,
        }
    }
    thread.join()
}

/// Reads a unit and waits until it is where it belongs: a CUDA device copies on a stream of this thread's own, beside the
/// stream on which another thread computes.
fn read<B>(load: &Load<B>, index: usize, device: &Device) -> Result<B> {
    let unit = load(index)?;
    device.synchronize()?;
    Ok(unit)
}
