//! Records a few columns or regions of the attention probabilities (DiTCtrl, arXiv 2412.18597; its sections on mask
//! guidance and on what the attention of an MM-DiT shows).
//!
//! The map of a word is the probability of the word's tokens as keys, for every video query, normalised over all keys,
//! summed over the tokens, meant over heads, and meant over the layers recorded so far in this pass. So at layer `l` it
//! covers layers up to `l` of the present step only: that is what the reference implementation's mask reads. (The paper
//! also names the text queries' columns; the reference does not use them, nor do we.) Rows that see their text only.
//!
//! In a UNet the layers have grids of several sizes. Maps are summed grid by grid and, when they are read, brought to the
//! finest of them (or to the reader's), bilinearly, as a user sees them.
//!
//! Maps belong to rows: they follow the rows through forks, and are dropped at the end of the pass. A control after the
//! recorder reads them through the shared handle [`AttentionMaps`]; what a user asked to see is copied out of the pass by
//! [`AttentionMap::keep`]. Unlike the reference no L x L map is made, only what was asked for.

use super::when::Ranges;
use super::word::Word;
use crate::attention::{AttentionProcessor, AttentionSite, Branch, Next, Pass, Qkv, Row, SiteKind};
use crate::nn::resample::resize_bilinear;
use candle_core::{Device, Result, Tensor, bail};
use std::cell::RefCell;
use std::rc::Rc;

/// A part of the probabilities, meant over heads and layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Video queries on each word: `[words, F, H, W]`.
    Words,
    /// Text queries on text keys: `[L, L]`.
    Text,
    /// Queries of one frame on keys of the same frame: `[H W, H W]`.
    Frame(usize),
    /// One place of the grid in all frames, on itself: `[F, F]`.
    Place { row: usize, column: usize },
}

/// Maps that a user asked for.
#[derive(Debug, Clone)]
pub struct Recording {
    pub words: Vec<Word>,
    /// Parts beside the words' (joint attention only).
    pub views: Vec<View>,
    pub steps: Ranges,
    pub layers: Ranges,
    /// Each layer's own maps, instead of their means over the layers up to it.
    pub single_layer: bool,
}

/// A map copied out of its pass.
#[derive(Debug, Clone)]
pub struct RecordedMap {
    pub step: usize,
    /// The last layer of its mean.
    pub layer: usize,
    pub branch: Branch,
    pub view: View,
    /// In f32 on the host; shape by [`View`].
    pub map: Tensor,
}

/// Sums over layers of one grid.
#[derive(Debug, Clone)]
struct GridMaps {
    height: usize,
    width: usize,
    layers: usize,
    /// One for each view of the recorder; words as `[words, F H W]`.
    sums: Vec<Tensor>,
}

#[derive(Debug, Clone, Default)]
struct RowMaps {
    /// The first is the one recorded first.
    grids: Vec<GridMaps>,
    /// The layer recorded last.
    last: Option<usize>,
}

impl RowMaps {
    fn add(&mut self, maps: Vec<Tensor>, site: &AttentionSite) -> Result<()> {
        let (_, height, width) = site.grid;
        self.last = Some(site.layer);
        let Some(grid) = self.grids.iter_mut().find(|grid| (grid.height, grid.width) == (height, width)) else {
            self.grids.push(GridMaps { height, width, layers: 1, sums: maps });
            return Ok(());
        };
        grid.sums = grid.sums.iter().zip(&maps).map(|(sum, map)| sum + map).collect::<Result<_>>()?;
        grid.layers += 1;
        Ok(())
    }

    fn layers(&self) -> usize {
        self.grids.iter().map(|grid| grid.layers).sum()
    }

    /// Height and width of the finest grid.
    fn finest(&self) -> (usize, usize) {
        let sizes = self.grids.iter().map(|grid| (grid.height, grid.width));
        sizes.max_by_key(|(height, width)| height * width).unwrap_or((0, 0))
    }

    /// The mean over layers of all words' maps together, `F H W`.
    fn foreground(&self, grid: (usize, usize)) -> Result<Vec<f32>> {
        (self.words(grid)?.sum(0)? / self.layers() as f64)?.to_vec1()
    }

    /// The sum of the words' maps over all layers, `[words, F H W]` on a grid of this size.
    fn words(&self, (height, width): (usize, usize)) -> Result<Tensor> {
        let on_grid = |grid: &GridMaps| {
            let Some(sum) = grid.sums.first() else { bail!("no attention map of words was recorded") };
            if (grid.height, grid.width) == (height, width) {
                return Ok(sum.clone());
            }
            let maps = sum.reshape((sum.dim(0)?, (), grid.height, grid.width))?; // [words, F, H, W]
            resize_bilinear(&maps, height, width)?.flatten_from(1)
        };
        let mut grids = self.grids.iter().map(on_grid);
        let first = grids.next().unwrap_or_else(|| bail!("no attention map was recorded"))?;
        grids.try_fold(first, |sum, grid| sum + grid?)
    }
}

#[derive(Debug, Default)]
struct MapStore {
    rows: Vec<RowMaps>,
    /// Whether the first map of a row is that of words.
    words: bool,
    /// The layer whose sites the recorder sees at present, whether or not it found rows to record.
    layer: Option<usize>,
    kept: Vec<RecordedMap>,
}

/// The maps of the present pass, shared by the recorder that writes and the controls that read. Clones share.
#[derive(Debug, Clone, Default)]
pub struct AttentionMaps(Rc<RefCell<MapStore>>);

impl AttentionMaps {
    /// The maps of all words together for a row, flattened: `[F H W]` on a grid of this height and width, the mean over the
    /// layers so far. `layer` is the one that asks: if the recorder saw it, the maps must hold it.
    ///
    /// # Errors
    /// When nothing was recorded for the row, or its own layer not yet (the order of groups is then wrong).
    pub fn foreground(&self, row: usize, layer: usize, grid: (usize, usize)) -> Result<Vec<f32>> {
        let state = self.0.borrow();
        let Some(maps) = state.rows.get(row).filter(|maps| state.words && !maps.grids.is_empty()) else {
            bail!("no attention map was recorded for row {row} before layer {layer}")
        };
        if state.layer == Some(layer) && maps.last != Some(layer) {
            bail!("layer {layer} asks for the attention map of row {row} before that row passed it")
        }
        maps.foreground(grid)
    }

    /// The same of all layers that the row has passed; none where none was recorded.
    pub fn so_far(&self, row: usize, grid: (usize, usize)) -> Result<Option<Vec<f32>>> {
        let state = self.0.borrow();
        let maps = state.rows.get(row).filter(|maps| state.words && !maps.grids.is_empty());
        maps.map(|maps| maps.foreground(grid)).transpose()
    }

    /// Takes out the maps kept so far.
    pub fn take(&self) -> Vec<RecordedMap> {
        std::mem::take(&mut self.0.borrow_mut().kept)
    }
}

/// The recorder.
pub struct AttentionMap {
    maps: AttentionMaps,
    words: Vec<Word>,
    views: Vec<View>,
    keep: Option<(Ranges, Ranges)>,
    single: bool,
    budget: usize,
}

impl AttentionMap {
    /// Records the maps of `words` into `maps`.
    pub fn new(maps: &AttentionMaps, words: Vec<Word>) -> Self {
        let views = if words.is_empty() { Vec::new() } else { vec![View::Words] };
        Self { maps: maps.clone(), words, views, keep: None, single: false, budget: 0 }
    }

    /// Each layer's own maps, instead of their means over the layers so far.
    pub fn single_layers(mut self) -> Self {
        self.single = true;
        self
    }

    /// Records `views` as well (joint attention only) and keeps all views, as they are after the given layers of the given
    /// steps, until [`AttentionMaps::take`]. More than `budget` bytes of maps is an error.
    pub fn keep(mut self, views: &[View], steps: Ranges, layers: Ranges, budget: usize) -> Self {
        self.views.extend_from_slice(views);
        self.keep = Some((steps, layers));
        self.budget = budget;
        self
    }

    /// One view of one row at one site, meant over heads; words as `[words, F H W]`.
    fn view(&self, view: View, qkv: &Qkv, site: &AttentionSite, branch: &Branch, next: &Next) -> Result<Tensor> {
        let (queries, keys) = (qkv.q.dim(2)?, qkv.k.dim(2)?);
        let (frames, height, width) = site.grid;
        let video = site.video_queries(queries)?;
        let of_keys = |queries: &Qkv, columns: Vec<u32>| {
            let columns = Tensor::new(columns, qkv.q.device())?;
            next.probe(queries, &columns)?.mean(1) // [B, L, J]
        };
        if view == View::Words {
            let video = qkv.queries(&video)?;
            let tokens = video.q.dim(0)? * video.q.dim(2)?;
            let columns = self.columns(site, branch)?;
            if columns.is_empty() {
                return Tensor::zeros((self.words.len(), tokens), candle_core::DType::F32, qkv.q.device());
            }
            let members = self.words.iter().enumerate().flat_map(|(word, of)| of.of(branch).iter().map(move |_| word));
            let mut sums = vec![0f32; columns.len() * self.words.len()]; // [J, words]
            members.enumerate().for_each(|(column, word)| sums[column * self.words.len() + word] = 1.0);
            let sums = Tensor::from_vec(sums, (columns.len(), self.words.len()), qkv.q.device())?;
            let columns = of_keys(&video, columns)?.reshape((tokens, ()))?; // [F H W, J]
            return columns.matmul(&sums)?.t()?.contiguous();
        }
        if site.kind != SiteKind::Joint || queries != keys {
            bail!("{}: {view:?} is a view of joint attention", site.path)
        }
        let tokens: Vec<u32> = match view {
            View::Text => site.text.clone().map(|token| token as u32).collect(),
            View::Frame(frame) if frame < frames => {
                (0..height * width).map(|token| (video.start + frame * height * width + token) as u32).collect()
            }
            View::Place { row, column } if row < height && column < width => {
                (0..frames).map(|frame| (video.start + (frame * height + row) * width + column) as u32).collect()
            }
            _ => bail!("{view:?} is not in the grid of {frames} frames of {height} x {width} tokens"),
        };
        let q = qkv.q.contiguous()?.index_select(&Tensor::new(tokens.as_slice(), qkv.q.device())?, 2)?;
        let scores = qkv.scores.of_queries(tokens.iter().map(|&token| token as usize))?;
        of_keys(&Qkv { q, scores, ..qkv.clone() }, tokens)?.squeeze(0)
    }

    /// Key positions of all words' tokens in a row, word after word.
    fn columns(&self, site: &AttentionSite, branch: &Branch) -> Result<Vec<u32>> {
        let mut columns = Vec::new();
        for word in &self.words {
            for &position in word.of(branch) {
                if position as usize >= site.text.len() {
                    bail!("'{}' is said to be token {position} of a text of {}", word.text, site.text.len())
                }
                columns.push(site.text.start as u32 + position);
            }
        }
        Ok(columns)
    }

    fn record(&self, qkv: &Qkv, site: &AttentionSite, next: &Next) -> Result<()> {
        self.maps.0.borrow_mut().layer = Some(site.layer);
        for (index, branch) in site.batch().enumerate().filter(|(_, branch)| branch.half.text) {
            let own = qkv.narrow(&site.inner[index])?;
            let maps = self.views.iter().map(|&view| self.view(view, &own, site, branch, next));
            let maps = maps.collect::<Result<Vec<_>>>()?;
            let mut state = self.maps.0.borrow_mut();
            let Some(row) = state.rows.get_mut(site.rows[index]) else {
                bail!("{}: row {} is not a row of the pass", site.path, site.rows[index])
            };
            if self.single {
                *row = RowMaps::default();
            }
            row.add(maps, site)?;
            let row = row.clone();
            self.copy_out(&mut state, &row, site, branch)?;
        }
        Ok(())
    }

    fn copy_out(&self, state: &mut MapStore, row: &RowMaps, site: &AttentionSite, branch: &Branch) -> Result<()> {
        let Some((steps, layers)) = &self.keep else { return Ok(()) };
        if !steps.contains(site.pass.step) || !layers.contains(site.layer) {
            return Ok(());
        }
        let (height, width) = row.finest();
        let of_view = |(index, &view): (usize, &View)| {
            let sum = match (view, row.grids.as_slice()) {
                (View::Words, _) => row.words((height, width))?.reshape((self.words.len(), (), height, width))?,
                (_, [grid]) => grid.sums[index].clone(),
                _ => bail!("{}: {view:?} is of layers of one grid", site.path),
            };
            Ok((view, (sum / row.layers() as f64)?.to_device(&Device::Cpu)?))
        };
        let maps = self.views.iter().enumerate().map(of_view).collect::<Result<Vec<_>>>()?;
        let bytes = |map: &Tensor| 4 * map.elem_count();
        let need = state.kept.iter().map(|kept| bytes(&kept.map)).sum::<usize>()
            + maps.iter().map(|(_, map)| bytes(map)).sum::<usize>();
        if need > self.budget {
            bail!(
                "the attention maps need {need} bytes, more than the {} allowed: choose fewer steps or layers",
                self.budget
            )
        }
        for (view, map) in maps {
            state.kept.push(RecordedMap { step: site.pass.step, layer: site.layer, branch: branch.clone(), view, map });
        }
        Ok(())
    }
}

impl AttentionProcessor for AttentionMap {
    fn begin(&mut self, _pass: &Pass, branches: &[Branch], _rows: &[Row]) -> Result<()> {
        let mut state = self.maps.0.borrow_mut();
        (state.rows, state.layer) = (vec![RowMaps::default(); branches.len()], None);
        state.words = !self.words.is_empty();
        Ok(())
    }

    fn attend(&mut self, qkv: Qkv, site: &AttentionSite, next: &mut Next) -> Result<Tensor> {
        if !site.text.is_empty() {
            self.record(&qkv, site, next)?;
        }
        next.attend(qkv, site)
    }

    fn fork(&mut self, sources: &[usize], _branches: &[Branch]) -> Result<()> {
        let mut state = self.maps.0.borrow_mut();
        let rows = sources.iter().map(|&row| state.rows.get(row).cloned().unwrap_or_default()).collect();
        state.rows = rows;
        Ok(())
    }

    fn end(&mut self, _pass: &Pass) -> Result<()> {
        let mut state = self.maps.0.borrow_mut();
        (state.rows, state.layer) = (Vec::new(), None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::attention::Fork;

    fn word(positions: &[&[u32]]) -> Word {
        Word { text: "knight".into(), positions: positions.iter().map(|list| list.to_vec()).collect() }
    }

    fn dense(toy: &Toy, qkv: &Qkv, row: usize, columns: &[u32]) -> Tensor {
        Tensor::new(dense_map(toy, qkv, row, columns), &Device::Cpu).unwrap()
    }

    #[test]
    fn words_are_columns_of_the_dense_softmax_of_conditional_rows() {
        for text_behind in [false, true] {
            let toy = Toy { text_behind, ..Toy::default() };
            let branches = [branch(UNCOND, 0, 0, None), branch(COND, 0, 0, None), branch(COND, 1, 1, Some(1))];
            let maps = AttentionMaps::default();
            let words = vec![word(&[&[0, 3], &[1]]), word(&[&[2], &[4]])];
            let recorder = AttentionMap::new(&maps, words).keep(&[], Ranges::all(), Ranges::all(), 1 << 20);
            let qkv = toy.qkv(1, 3);
            let mut stack = [boxed(recorder)];
            assert_same(&toy.attend(&qkv, &branches, &mut stack).unwrap(), &toy.plain(&qkv));
            let kept = maps.take();
            assert_eq!(kept.iter().map(|kept| kept.branch.window).collect::<Vec<_>>(), [0, 1], "conditional rows");
            for (kept, row, columns) in [(&kept[0], 1, [&[0, 3][..], &[2]]), (&kept[1], 2, [&[1], &[4]])] {
                assert_eq!(kept.map.dims(), [2, 3, 2, 3]);
                for (index, columns) in columns.into_iter().enumerate() {
                    let map = kept.map.get(index).unwrap().flatten_all().unwrap();
                    assert_near(&map, &dense(&toy, &qkv, row, columns), 1e-6);
                }
            }
            assert!(maps.take().is_empty());
        }
    }

    #[test]
    fn views_are_blocks_of_the_dense_softmax() {
        let toy = Toy::default();
        let maps = AttentionMaps::default();
        let views = [View::Text, View::Frame(2), View::Place { row: 1, column: 2 }];
        let recorder = AttentionMap::new(&maps, Vec::new()).keep(&views, Ranges::all(), Ranges::all(), 1 << 20);
        let qkv = toy.qkv(2, 1);
        toy.attend(&qkv, &[branch(COND, 0, 0, None)], &mut [boxed(recorder)]).unwrap();
        let p = dense_probabilities(&qkv).mean(1).unwrap().squeeze(0).unwrap();
        let block = |tokens: &[u32]| {
            let tokens = Tensor::new(tokens, &Device::Cpu).unwrap();
            p.index_select(&tokens, 0).unwrap().index_select(&tokens, 1).unwrap()
        };
        let kept = maps.take();
        assert_near(&kept[0].map, &block(&[0, 1, 2, 3, 4]), 1e-6);
        assert_near(&kept[1].map, &block(&[17, 18, 19, 20, 21, 22]), 1e-6);
        assert_near(&kept[2].map, &block(&[10, 16, 22]), 1e-6);

        let recorder = AttentionMap::new(&maps, Vec::new()).keep(&[View::Frame(3)], Ranges::all(), Ranges::all(), 1);
        let error = toy.attend(&qkv, &[branch(COND, 0, 0, None)], &mut [boxed(recorder)]).unwrap_err().to_string();
        assert!(error.contains("Frame(3) is not in the grid of 3 frames"), "{error}");
    }

    #[test]
    fn the_mean_covers_the_layers_so_far_and_follows_forks() {
        let toy = Toy::default();
        let rows = toy.input(5, 2);
        let branches = [branch(COND, 0, 0, None), branch(COND, 1, 0, None)];
        let forked = [(1, branches[1].clone()), (0, branches[0].clone()), (1, branches[1].clone())];
        let maps = AttentionMaps::default();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (handle, seen_there, of_toy) = (maps.clone(), seen.clone(), toy.clone());
        let spy = Spy(move |qkv: &Qkv, site: &AttentionSite| {
            let map = dense(&of_toy, qkv, 0, &[1, 2]);
            let got = handle.foreground(site.rows[0], site.layer, (2, 3))?;
            seen_there.borrow_mut().push((site.layer, site.rows[0], map, got));
            Ok(())
        });
        let mut stack = [boxed(AttentionMap::new(&maps, vec![word(&[&[1, 2]])])), boxed(spy)];
        let forks = vec![Fork { layer: 2, rows: forked.to_vec() }];
        toy.forward(pass(0), &rows, &branches, forks, &mut stack).unwrap();

        let seen = seen.borrow();
        assert_eq!(seen.len(), 2 + 2 + 3 + 3);
        let at = |layer, row| &seen.iter().find(|entry| (entry.0, entry.1) == (layer, row)).unwrap().2;
        for (layer, row, _, got) in seen.iter() {
            let before = if *layer < 2 { *row } else { [1, 0, 1][*row] };
            let own: Vec<_> = (0..=*layer).map(|l| at(l, if l < 2 { before } else { *row }).clone()).collect();
            let mean = (Tensor::stack(&own, 0).unwrap().sum(0).unwrap() / own.len() as f64).unwrap();
            assert_near(&Tensor::new(got.as_slice(), &Device::Cpu).unwrap(), &mean, 1e-6);
        }
        assert!(maps.foreground(0, 3, (2, 3)).is_err(), "the end of the pass drops the maps");
    }

    #[test]
    fn grids_of_several_sizes_are_read_on_the_finest() {
        let toy = Toy::default();
        let maps = AttentionMaps::default();
        let keep = |maps: &AttentionMaps| {
            AttentionMap::new(maps, vec![word(&[&[1]])]).keep(&[], Ranges::all(), Ranges::all(), 1 << 20)
        };
        let branches = [branch(COND, 0, 0, None)];
        let mut stack = [boxed(keep(&maps))];
        let mut hooks = toy.hooks(&branches, &mut stack);
        let inner = crate::attention::inner_ranges([3]);
        let mut of_layers = Vec::new();
        for (layer, (height, width)) in [(2, 4), (1, 2), (1, 2)].into_iter().enumerate() {
            let shape = |length| [3, toy.heads, length, toy.width];
            let (q, k) = (random(layer as u64, &shape(height * width)), random(layer as u64 + 9, &shape(toy.text)));
            let qkv = Qkv { q, v: k.clone(), k, scale: 1.0, scores: Default::default() };
            let p = dense_probabilities(&qkv).mean(1).unwrap().narrow(2, 1, 1).unwrap();
            of_layers.push(p.reshape((1, 3, height, width)).unwrap());
            let grid = (3, height, width);
            let site = crate::attention::Site { kind: SiteKind::Cross, grid, inner: &inner, ..toy.site(layer, &[0]) };
            hooks.attend(qkv, &site).unwrap();
        }
        let read = |layers: &[Tensor], height, width| {
            let mut sum = Tensor::zeros((1, 3, height, width), candle_core::DType::F32, &Device::Cpu).unwrap();
            for map in layers {
                sum = (sum + resize_bilinear(map, height, width).unwrap()).unwrap();
            }
            (sum / layers.len() as f64).unwrap()
        };
        for (layer, kept) in maps.take().iter().enumerate() {
            assert_near(&kept.map, &read(&of_layers[..=layer], 2, 4), 1e-6);
        }
        let coarse = Tensor::new(maps.so_far(0, (1, 2)).unwrap().unwrap(), &Device::Cpu).unwrap();
        assert_near(&coarse, &read(&of_layers, 1, 2).flatten_all().unwrap(), 1e-6);
        drop(hooks);
        assert!(maps.so_far(1, (1, 2)).unwrap().is_none());
    }

    #[test]
    fn a_layer_that_was_not_passed_yet_has_no_map() {
        let toy = Toy::default();
        let maps = AttentionMaps::default();
        let mut stack = [boxed(AttentionMap::new(&maps, vec![word(&[&[1]])]))];
        let branches = [branch(COND, 0, 0, None), branch(COND, 1, 0, None)];
        let mut hooks = toy.hooks(&branches, &mut stack);
        hooks.attend(toy.qkv(3, 1), &toy.site(0, &[1])).unwrap();
        assert!(
            maps.foreground(0, 0, (2, 3)).unwrap_err().to_string().contains("no attention map was recorded for row 0")
        );
        assert_eq!(maps.foreground(1, 0, (2, 3)).unwrap().len(), toy.video());
        hooks.attend(toy.qkv(3, 1), &toy.site(0, &[0])).unwrap();
        hooks.attend(toy.qkv(4, 1), &toy.site(1, &[0])).unwrap();
        assert!(maps.foreground(1, 1, (2, 3)).unwrap_err().to_string().contains("before that row passed it"));
        assert!(maps.foreground(1, 9, (2, 3)).is_ok(), "a layer that is not recorded reads what there is");
    }

    #[test]
    fn wrong_positions_and_too_many_maps_are_refused() {
        let toy = Toy::default();
        let (maps, branches) = (AttentionMaps::default(), [branch(COND, 0, 0, None)]);
        let run = |recorder| toy.attend(&toy.qkv(1, 1), &branches, &mut [boxed(recorder)]).map_err(|e| e.to_string());
        let error = run(AttentionMap::new(&maps, vec![word(&[&[5]])])).unwrap_err();
        assert!(error.contains("'knight' is said to be token 5 of a text of 5"), "{error}");
        let keep = |bytes| AttentionMap::new(&maps, vec![word(&[&[0]])]).keep(&[], Ranges::all(), Ranges::all(), bytes);
        assert!(run(keep(72)).is_ok()); // 18 tokens of 4 bytes
        maps.take();
        let error = run(keep(71)).unwrap_err();
        assert!(error.contains("need 72 bytes, more than the 71 allowed"), "{error}");
    }
}
