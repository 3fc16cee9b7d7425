//! Every step of short runs equals diffusers' schedulers and a transcription of the SAT specification; goldens by
//! `tests/reference/schedulers.py`.

use crate::common::{golden, relative_l2, tiny};
use candle_core::Tensor;
use std::collections::HashMap;
use vidgen::schedulers::{
    BetaSchedule, PredictionType, ScheduleConfig, ScheduleKeys, Scheduler, SchedulerKind, Table, TimestepSpacing, build,
};

const SHAPE: [usize; 4] = [2, 2, 3, 4];
const LIMIT: f64 = 1e-6;

fn prediction(i: usize) -> Tensor {
    tiny::unit(&format!("scheduler/prediction/{i}"), &SHAPE)
}

fn noise(i: usize) -> Tensor {
    tiny::unit(&format!("scheduler/noise/{i}"), &SHAPE)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Runs on its own results through all steps; gives the largest distance to the golden of any sample or estimate.
fn follow(scheduler: &mut dyn Scheduler, goldens: &HashMap<String, Tensor>, run: &str) -> f64 {
    let golden = |what: &str| goldens.get(&format!("{run}/{what}")).unwrap_or_else(|| panic!("no {run}/{what}"));
    assert_eq!(scheduler.timesteps(), golden("timesteps").to_vec1::<f64>().unwrap(), "{run}");
    let mut sample = (tiny::unit("scheduler/sample", &SHAPE) * scheduler.init_noise_sigma()).unwrap();
    let mut worst = 0.0f64;
    for i in 0..scheduler.timesteps().len() {
        let x0 = scheduler.predict_x0(i, &prediction(i), &sample).unwrap();
        let drawn = scheduler.needs_noise(i).then(|| noise(i));
        sample = scheduler.step(i, &prediction(i), &sample, drawn.as_ref()).unwrap();
        worst = worst.max(relative_l2(&sample, &golden("sample").get(i).unwrap()));
        worst = worst.max(relative_l2(&x0, &golden("x0").get(i).unwrap()));
    }
    worst
}

#[track_caller]
fn assert_follows(
    config: &ScheduleConfig,
    kind: SchedulerKind,
    table: Table,
    eta: f64,
    goldens: &HashMap<String, Tensor>,
    run: &str,
    steps: usize,
) {
    let mut scheduler = build(config, kind, table, steps, eta).unwrap();
    let worst = follow(scheduler.as_mut(), goldens, &format!("{run}/{steps}"));
    println!("{table} {run}, {steps} steps: {worst:.2e}");
    assert!(worst <= LIMIT, "{table} {run}, {steps} steps: {worst:.2e} > {LIMIT:.0e}");
}

#[test]
fn ddim_equals_diffusers() {
    let (config, goldens) = (ScheduleConfig::zero_snr(3.0), golden("schedulers/ddim"));
    for steps in [4, 6, 10, 50] {
        assert_follows(&config, SchedulerKind::Ddim, Table::Diffusers, 0.0, &goldens, "eta0", steps);
        assert_follows(&config, SchedulerKind::Ddim, Table::Diffusers, 0.5, &goldens, "eta0.5", steps);
    }
}

#[test]
fn dpm_equals_diffusers() {
    let (config, goldens) = (ScheduleConfig::zero_snr(3.0), golden("schedulers/dpm"));
    for steps in [4, 6, 10, 50] {
        assert_follows(&config, SchedulerKind::Dpmpp2mSde, Table::Diffusers, 0.0, &goldens, "dpm", steps);
    }
}

#[test]
fn sat_table_equals_the_transcription() {
    let (config, goldens) = (ScheduleConfig::zero_snr(3.0), golden("schedulers/sat"));
    for steps in [4, 6, 10, 50] {
        assert_follows(&config, SchedulerKind::Ddim, Table::Sat, 0.0, &goldens, "ddim", steps);
        assert_follows(&config, SchedulerKind::Dpmpp2mSde, Table::Sat, 0.0, &goldens, "dpm", steps);
    }
    let shift1 = ScheduleConfig::zero_snr(1.0);
    assert_follows(&shift1, SchedulerKind::Dpmpp2mSde, Table::Sat, 0.0, &goldens, "dpm-shift1", 6);
}

/// What tests/reference/schedulers.py calls VARIANTS.
fn variants() -> Vec<(&'static str, ScheduleConfig)> {
    let base = || ScheduleConfig::zero_snr(3.0);
    vec![
        ("shift1", ScheduleConfig::zero_snr(1.0)),
        ("linear", ScheduleConfig { beta_schedule: BetaSchedule::Linear, ..base() }),
        ("cosine", ScheduleConfig { beta_schedule: BetaSchedule::SquaredcosCapV2, ..base() }),
        (
            "trained",
            ScheduleConfig {
                num_train_timesteps: 40,
                trained_betas: Some((0..40).map(|i| 0.01 + 0.005 * f64::from(i)).collect()),
                ..base()
            },
        ),
        ("leading", ScheduleConfig { timestep_spacing: TimestepSpacing::Leading, steps_offset: 1, ..base() }),
        ("linspace", ScheduleConfig { timestep_spacing: TimestepSpacing::Linspace, ..base() }),
        ("not_to_one", ScheduleConfig { set_alpha_to_one: false, ..base() }),
        (
            "epsilon",
            ScheduleConfig { prediction_type: PredictionType::Epsilon, rescale_betas_zero_snr: false, ..base() },
        ),
        ("sample", ScheduleConfig { prediction_type: PredictionType::Sample, ..base() }),
        (
            "few",
            ScheduleConfig {
                num_train_timesteps: 100,
                timestep_spacing: TimestepSpacing::Leading,
                set_alpha_to_one: false,
                rescale_betas_zero_snr: false,
                ..base()
            },
        ),
    ]
}

#[test]
fn every_configuration_equals_diffusers() {
    let (ddim, dpm) = (golden("schedulers/variants-ddim"), golden("schedulers/variants-dpm"));
    for (name, config) in variants() {
        for steps in [4, 6] {
            let run = format!("{name}/eta0");
            assert_follows(&config, SchedulerKind::Ddim, Table::Diffusers, 0.0, &ddim, &run, steps);
            let run = format!("{name}/dpm");
            assert_follows(&config, SchedulerKind::Dpmpp2mSde, Table::Diffusers, 0.0, &dpm, &run, steps);
        }
        assert_follows(&config, SchedulerKind::Ddim, Table::Diffusers, 0.5, &ddim, &format!("{name}/eta0.5"), 6);
    }
}

/// What published folders of Stable Diffusion 1.x say, run by the class of a kind: `VARIANTS` of `tests/reference/samplers.py`.
fn sd(kind: SchedulerKind, variant: &str) -> ScheduleConfig {
    let mut file = serde_json::json!({
        "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "steps_offset": 1, "set_alpha_to_one": false, "skip_prk_steps": true, "num_train_timesteps": 1000
    });
    match variant {
        "v" => file["prediction_type"] = "v_prediction".into(),
        "trailing" | "leading" => file["timestep_spacing"] = variant.into(),
        "zero-snr" => {
            file["prediction_type"] = "v_prediction".into();
            file["timestep_spacing"] = "trailing".into();
            file["rescale_betas_zero_snr"] = true.into();
        }
        _ => {}
    }
    serde_json::from_value::<ScheduleKeys>(file).unwrap().config(&[], Some(kind)).unwrap()
}

#[test]
fn the_samplers_of_stable_diffusion_equal_diffusers() {
    let goldens = golden("schedulers/samplers");
    for (name, kind) in [
        ("ddim", SchedulerKind::Ddim),
        ("euler", SchedulerKind::Euler),
        ("euler-ancestral", SchedulerKind::EulerAncestral),
        ("dpmpp-2m", SchedulerKind::Dpmpp2m),
        ("unipc", SchedulerKind::UniPc),
        ("lcm", SchedulerKind::Lcm),
    ] {
        for variant in ["epsilon", "v", "trailing", "leading", "zero-snr"] {
            if kind == SchedulerKind::Lcm && ["trailing", "leading"].contains(&variant) {
                continue; // it does not look at the key
            }
            if variant == "zero-snr" && !matches!(kind, SchedulerKind::Dpmpp2m | SchedulerKind::UniPc) {
                continue; // others do not look back over the first step
            }
            let steps = match variant {
                "epsilon" => &[4, 12][..],
                "zero-snr" => &[5],
                _ => &[7],
            };
            for steps in steps {
                let mut scheduler = build(&sd(kind, variant), kind, Table::Diffusers, *steps, 0.0).unwrap();
                let run = format!("{name}/{variant}/{steps}");
                let worst = follow(scheduler.as_mut(), &goldens, &run);
                println!("{run}: {worst:.2e}");
                assert!(worst <= 1e-5, "{run}: {worst:.2e}");
            }
        }
    }
}

#[test]
fn timesteps_of_every_run_length_equal_diffusers() {
    let goldens = golden("schedulers/timesteps");
    for (name, timestep_spacing) in [
        ("trailing", TimestepSpacing::Trailing),
        ("leading", TimestepSpacing::Leading),
        ("linspace", TimestepSpacing::Linspace),
    ] {
        let config = ScheduleConfig { timestep_spacing, ..ScheduleConfig::zero_snr(3.0) };
        for (index, want) in goldens[name].to_vec1::<f64>().unwrap().into_iter().enumerate() {
            let scheduler = build(&config, SchedulerKind::Ddim, Table::Diffusers, index + 1, 0.0).unwrap();
            assert_eq!(scheduler.timesteps().len(), index + 1);
            let got: f64 = scheduler.timesteps().iter().zip(1..).map(|(t, i)| t * f64::from(i)).sum();
            assert_eq!(got, want, "{name}, {} steps", index + 1);
        }
    }
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_for_bit() {
    let config = ScheduleConfig::zero_snr(3.0);
    for (kind, table) in [
        (SchedulerKind::Ddim, Table::Diffusers),
        (SchedulerKind::Dpmpp2mSde, Table::Diffusers),
        (SchedulerKind::Dpmpp2mSde, Table::Sat),
        (SchedulerKind::Dpmpp2m, Table::Diffusers),
        (SchedulerKind::UniPc, Table::Diffusers),
    ] {
        let fresh = || build(&config, kind, table, 6, 0.0).unwrap();
        let steps = |scheduler: &mut dyn Scheduler, range: std::ops::Range<usize>, mut sample: Tensor| {
            for i in range {
                sample = scheduler.step(i, &prediction(i), &sample, Some(&noise(i))).unwrap();
            }
            sample
        };
        let whole = steps(fresh().as_mut(), 0..6, tiny::unit("scheduler/sample", &SHAPE));
        for stop in 1..6 {
            let mut first = fresh();
            let kept = steps(first.as_mut(), 0..stop, tiny::unit("scheduler/sample", &SHAPE));
            // through bytes, as a journal would keep it
            let state = first
                .state()
                .map(|state| Tensor::new(values(&state), state.device()).unwrap().reshape(state.shape()).unwrap());
            let mut second = fresh();
            second.restore(state);
            let resumed = steps(second.as_mut(), stop..6, kept);
            let bits = |tensor: &Tensor| values(tensor).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(&resumed), bits(&whole), "{kind} {table}, stopped after {stop}");
        }
    }
}
