//! The blocks of a transformer: all of them in memory, or each read again for every pass while the one before it computes.
//!
//! A pass goes through the layers in order and through each of them once with all its rows, so a block that is streamed is
//! read once for a pass. What it is read from is the business of the weights it is given: files, or copies in the host's
//! memory. Two blocks are alive at most, the one at work and the next one. A block that is read again is the same block, so
//! the network's results do not depend on where its blocks are.

use super::transformer::{Block, TransformerConfig};
use candle_core::{Error, Result};
use candle_nn::VarBuilder;
use rayon::Yield;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Between two looks at a block that is being read.
const PAUSE: Duration = Duration::from_micros(100);

/// All blocks of a transformer, in the order of their layers.
#[derive(Debug)]
pub(super) enum Blocks {
    Resident(Vec<Arc<Block>>),
    Streamed(Stream),
}

impl Blocks {
    /// Reads all blocks. `vb` is that of `transformer_blocks`.
    pub fn resident(config: &TransformerConfig, vb: &VarBuilder) -> Result<Self> {
        let blocks = (0..config.num_layers).map(|layer| Ok(Arc::new(Block::load(config, layer, vb.pp(layer))?)));
        Ok(Self::Resident(blocks.collect::<Result<_>>()?))
    }

    /// Reads every block once, so that missing and wrong tensors are found now, and keeps none but the first.
    pub fn streamed(config: &TransformerConfig, vb: VarBuilder<'static>) -> Result<Self> {
        let stream = Stream { config: Arc::new(config.clone()), vb, ahead: Mutex::new(None) };
        for layer in 0..config.num_layers {
            stream.get(layer)?;
        }
        Ok(Self::Streamed(stream))
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Resident(blocks) => blocks.len(),
            Self::Streamed(stream) => stream.config.num_layers,
        }
    }

    /// The block of a layer. Where blocks are streamed the caller has dropped the one before, and the next one is read from
    /// now on; the first follows the last, for the next pass.
    pub fn get(&self, layer: usize) -> Result<Arc<Block>> {
        match self {
            Self::Resident(blocks) => Ok(blocks[layer].clone()),
            Self::Streamed(stream) => stream.get(layer),
        }
    }
}

/// Blocks that are read when their turn comes.
pub(super) struct Stream {
    config: Arc<TransformerConfig>,
    vb: VarBuilder<'static>,
    /// The layer that is being read, or has been.
    ahead: Mutex<Option<(usize, JoinHandle<Result<Block>>)>>,
}

impl Stream {
    fn get(&self, layer: usize) -> Result<Arc<Block>> {
        // what was queued on a device still needs the block before this one, whose memory the next one is to take
        self.vb.device().synchronize()?;
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let mut block = None;
        // joined even where a pass ended early and another layer is wanted: what it holds is gone before more is read
        if let Some((read, thread)) = ahead.take() {
            let got = join(thread).map_err(|_| Error::Msg(format!("reading block {read} failed")))?;
            block = Some(got?).filter(|_| read == layer);
        }
        let block = match block {
            Some(block) => block,
            None => read(&self.config, layer, &self.vb)?,
        };
        let next = (layer + 1) % self.config.num_layers;
        let (config, vb) = (self.config.clone(), self.vb.clone());
        let thread = Builder::new().name(format!("block {next}")).spawn(move || read(&config, next, &vb))?;
        *ahead = Some((next, thread));
        Ok(Arc::new(block))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} streamed blocks", self.config.num_layers)
    }
}

impl Drop for Stream {
    /// Nothing is left behind that holds memory.
    fn drop(&mut self) {
        let ahead = self.ahead.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        drop(ahead.map(|(_, thread)| join(thread)));
    }
}

/// Waits for a thread that reads. It may need this one to unpack what it reads, where this is a thread of the pool.
fn join(thread: JoinHandle<Result<Block>>) -> std::thread::Result<Result<Block>> {
    while !thread.is_finished() {
        match rayon::yield_now() {
            Some(Yield::Executed) => {}
            Some(Yield::Idle) => std::thread::sleep(PAUSE),
            None => break,
        }
    }
    thread.join()
}

/// Reads a block and waits until it is where it belongs: a CUDA device copies on a stream of this thread's own, beside the
/// stream on which another thread computes.
fn read(config: &TransformerConfig, layer: usize, vb: &VarBuilder) -> Result<Block> {
    let block = Block::load(config, layer, vb.pp(layer))?;
    vb.device().synchronize()?;
    Ok(block)
}
