//! What is alive in memory: weights on their way to a device, and transformers whose blocks come one after the other. Counts
//! every byte that is allocated, so each test runs alone in a process of its own.

use crate::common::tiny;
use candle_core::{DType, Device, Tensor};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use vidgen::attention::{Branch, Fork, Half, Hooks, Pass};
use vidgen::job::{self, Command as Made, read_settings};
use vidgen::models::cogvideox::config::TransformerConfig;
use vidgen::models::cogvideox::transformer::Transformer;
use vidgen::models::{Denoiser, Row};
use vidgen::nn::sdpa::Sdpa;
use vidgen::pipelines::{self, Loaded};
use vidgen::storyboard::Storyboard;
use vidgen::weights::{ModelFolder, Part};

struct Counting;

static ALIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let alive = ALIVE.fetch_add(layout.size(), SeqCst) + layout.size();
        PEAK.fetch_max(alive, SeqCst);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Set for a process that runs one test and nothing else.
const ALONE: &str = "VIDGEN_TEST_ALONE";

/// Whether this process runs this test alone. If not, a new one does so first, and the test fails where that fails.
fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let mut program = Command::new(std::env::current_exe().unwrap());
    let done = program.args([&name, "--exact", "--nocapture", "--test-threads=1"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("1 passed"), "there is no {name}: {said}");
    false
}

/// Bytes that `work` had allocated at its peak, and those that its result holds.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = ALIVE.load(SeqCst);
    PEAK.store(before, SeqCst);
    let made = work();
    (made, PEAK.load(SeqCst).saturating_sub(before), ALIVE.load(SeqCst).saturating_sub(before))
}

/// Names, messages, maps of names: what is not weights.
const SMALL: usize = 1 << 18;
const LAYERS: usize = 24;

fn deep(folder: &Path, dtype: DType) -> (TransformerConfig, Part) {
    tiny::write_deep("tiny-5b", LAYERS, dtype, folder);
    let model = ModelFolder::folder(folder).unwrap();
    (model.json("transformer/config.json").unwrap(), model.part("transformer").unwrap())
}

#[test]
fn weights_go_to_their_numbers_one_tensor_at_a_time() {
    if !alone("weights_go_to_their_numbers_one_tensor_at_a_time") {
        return;
    }
    for (stored, dtype) in
        [(DType::BF16, DType::BF16), (DType::F16, DType::F16), (DType::F32, DType::BF16), (DType::BF16, DType::F32)]
    {
        let folder = tempfile::tempdir().unwrap();
        let (_, part) = deep(folder.path(), stored);
        let infos = part.tensors().unwrap();
        let largest = infos.iter().map(|info| info.elements()).max().unwrap() as usize * 4;
        let wanted = part.bytes_as(dtype) as usize;
        let load = || {
            let vb = part.var_builder(dtype, &Device::Cpu).unwrap();
            infos.iter().map(|info| vb.get(info.shape.as_slice(), &info.name).unwrap()).collect::<Vec<_>>()
        };
        load(); // threads and their pools come once
        let (tensors, peak, alive) = measured(load);
        assert!(tensors.iter().all(|tensor| tensor.dtype() == dtype), "{stored:?} to {dtype:?}");
        let overhead = infos.len() * 1024 + SMALL;
        assert!((wanted..wanted + overhead).contains(&alive), "{stored:?} to {dtype:?}: {alive} for {wanted}");
        assert!(peak < wanted + largest + overhead, "{stored:?} to {dtype:?}: {peak} at the peak for {wanted}");
        if stored.size_in_bytes() == dtype.size_in_bytes() {
            assert!(wanted + overhead + largest < 2 * wanted, "this would not see the detour by f32");
        }
    }
}

/// Two rows, of which the second is dropped and the first doubled on the way.
fn forward(model: &Transformer, config: &TransformerConfig, step: usize) -> Vec<Vec<f32>> {
    let row = |index: usize| {
        let latents = tiny::unit(&format!("latents {index}"), &[1, config.in_channels, 4, 4]);
        let text = tiny::unit(&format!("text {index}"), &[config.max_text_seq_length, config.text_embed_dim]);
        Row::new(latents, text, 900.0 - 100.0 * step as f64)
    };
    let branch = |window| Branch::new(Half::COND, window, 0);
    let fork = Fork { layer: LAYERS / 2, rows: vec![(0, branch(0)), (0, branch(0))] };
    let pass = Pass { step, steps: 3 };
    let rows = vec![branch(0), branch(1)];
    let mut hooks = Hooks::new(pass, rows, vec![fork], &mut [], Sdpa::default(), 2).unwrap();
    let made = model.forward(&[row(0), row(1)], &mut hooks).unwrap();
    hooks.finish().unwrap();
    made.iter().map(|tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

#[test]
fn streamed_blocks_give_the_same_values_in_the_memory_of_two() {
    if !alone("streamed_blocks_give_the_same_values_in_the_memory_of_two") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (config, part) = deep(folder.path(), DType::BF16);
    let whole = part.bytes_as(DType::F32) as usize;
    let stored = part.bytes() as usize;
    let block: u64 =
        part.tensors().unwrap().iter().filter(|t| t.name.contains("blocks.0.")).map(|t| t.elements()).sum();
    let (block, rest) = (4 * block as usize, whole - 4 * block as usize * LAYERS);
    let vb = |held| match held {
        true => part.var_builder_holding(DType::F32, &Device::Cpu).unwrap(),
        false => part.var_builder(DType::F32, &Device::Cpu).unwrap(),
    };
    let run = |load: &dyn Fn() -> Transformer| {
        measured(|| {
            let model = load();
            (0..3).map(|step| forward(&model, &config, step)).collect::<Vec<_>>()
        })
    };
    let resident = || Transformer::load(&config, vb(false)).unwrap();
    let streamed = |held| Transformer::load_streamed(&config, vb(held)).unwrap();
    run(&resident);
    let (want, all, _) = run(&resident);
    let (from_disk, disk, left_of_disk) = run(&|| streamed(false));
    let (from_host, host, left_of_host) = run(&|| streamed(true));
    println!("weights {whole}, block {block}, rest {rest}: resident {all}, disk {disk}, host {host}");
    assert!(want == from_disk && want == from_host, "bit for bit");
    assert!(want[0] != want[1], "steps differ");
    assert!(all > whole, "{all}");
    // the block at work, the next one, a tensor of the next twice; states and scores are the same in all three
    let beside = all - whole + SMALL;
    assert!(disk < rest + 3 * block + beside, "{disk}");
    assert!(host < stored + rest + 3 * block + beside + LAYERS * 30 * 256, "{host}");
    assert!(disk < all / 4 && host < all * 2 / 3, "{disk} and {host} of {all}");
    let results: usize = want.iter().flatten().map(|row| 4 * row.len()).sum();
    assert!(left_of_disk < results + SMALL && left_of_host < results + SMALL, "nothing outlives the network");
}

#[test]
fn a_stream_goes_on_after_passes_that_ended_early() {
    if !alone("a_stream_goes_on_after_passes_that_ended_early") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (config, part) = deep(folder.path(), DType::F32);
    let model = Transformer::load_streamed(&config, part.var_builder(DType::F32, &Device::Cpu).unwrap()).unwrap();
    let want = forward(&model, &config, 0);
    // a fork to a row that is not there ends the pass in the middle
    let latents = tiny::unit("latents 0", &[1, config.in_channels, 4, 4]);
    let text = tiny::unit("text 0", &[config.max_text_seq_length, config.text_embed_dim]);
    let row = Row::new(latents, text, 900.0);
    let branch = Branch::new(Half::COND, 0, 0);
    for layer in [1, LAYERS / 2, LAYERS - 1] {
        let fork = Fork { layer, rows: vec![(7, branch.clone())] };
        let pass = Pass { step: 0, steps: 1 };
        let hooks = Hooks::new(pass, vec![branch.clone()], vec![fork], &mut [], Sdpa::default(), 1);
        let failed = hooks.and_then(|mut hooks| model.forward(std::slice::from_ref(&row), &mut hooks));
        assert!(failed.is_err());
        assert!(forward(&model, &config, 0) == want);
    }
}

#[test]
fn a_stream_finds_what_is_missing_before_the_first_pass() {
    if !alone("a_stream_finds_what_is_missing_before_the_first_pass") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut config, part) = deep(folder.path(), DType::F16);
    config.num_layers += 1;
    let vb = part.var_builder(DType::F32, &Device::Cpu).unwrap();
    let error = Transformer::load_streamed(&config, vb).unwrap_err().to_string();
    assert!(error.contains(&format!("transformer_blocks.{LAYERS}.")), "{error}");
}

/// Frames of an image model go through the networks in chunks: what grows with the video is its latents, and the edges that it follows.
#[test]
fn a_long_video_of_an_image_model_takes_its_latents_more() {
    if !alone("a_long_video_of_an_image_model_takes_its_latents_more") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    tiny::write_picture_model("tiny-sd1", &folder.path().join("model"));
    let (width, height) = (64, 48);
    let header = format!("YUV4MPEG2 W{width} H{height} F8:1 Ip C420jpeg\n").into_bytes();
    let frame = [&b"FRAME\n"[..], &[90; 64 * 24], &[200; 64 * 24], &[128; 2 * 32 * 24]].concat();
    std::fs::write(folder.path().join("given.y4m"), [header, frame.repeat(500)].concat()).unwrap();
    let run = |frames: usize, more: &str| {
        let place = folder.path().display();
        let settings = format!(
            "model = \"{place}/model\"\nframes = {frames}\nsize = \"{width}x{height}\"\nsteps = 2\nseed = 3\nchunk = 4\n\
             text_cache = \"off\"\nthreads = 2\nwork_dir = \"{place}/runs\"\noutput = \"{place}/a.y4m\"\noverwrite = true\n{more}"
        );
        let settings = read_settings(settings.parse().unwrap()).unwrap();
        let storyboard = Storyboard::from_prompts(&["a red ball rolls".to_owned()]).unwrap();
        let (_, peak, _) = measured(|| {
            let jobs = job::resolve(Made::Generate, settings, storyboard).unwrap();
            let made = pipelines::run(&jobs[0], &mut Loaded::for_jobs(false), &mut ()).unwrap();
            assert_eq!(made.video.frames, frames as u64);
        });
        peak
    };
    let (few, many) = (60, 500);
    let control = format!("control = \"canny:{}/given.y4m\"", folder.path().display());
    for (more, each) in [("motion_steps = \"100..600\"", 0), (control.as_str(), width * height)] {
        run(few, more); // threads and their pools come once
        let (short, long) = (run(few, more), run(many, more));
        let latents = 4 * (width / 8) * (height / 8) * 4;
        let grown = long.saturating_sub(short);
        println!("{more}: {short} for {few} frames, {long} for {many}");
        // in a run latents are there as the timeline, its estimates, noise and what is saved
        assert!(grown < (many - few) * (12 * latents + 2 * each) + SMALL, "{more}: {grown}");
        // this would see frames that wait
        assert!((12 * latents + 2 * each) < 4 * 3 * width * height, "{latents}");
    }
}
