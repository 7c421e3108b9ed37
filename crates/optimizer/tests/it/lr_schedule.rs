//! The learning rate of every step, as diffusers' schedulers hand it to the optimizer.

use sdtrain_optimizer::learning_rate_factor;
use sdtrain_recipe::{ConstantSchedule, CosineSchedule, LinearSchedule, LrScheduleConfig};
use sdtrain_torch_test_support::{Golden, assert_near};
use tch::Tensor;

/// Our configuration of a case; `None` for diffusers' schedules that we do not have.
fn schedule(name: &str, warmup_steps: u64) -> Option<LrScheduleConfig> {
    Some(match name {
        "constant" | "constant_with_warmup" => LrScheduleConfig::Constant(ConstantSchedule { warmup_steps }),
        "linear" => LrScheduleConfig::Linear(LinearSchedule { warmup_steps, min_ratio: 0.0 }),
        "cosine" => LrScheduleConfig::Cosine(CosineSchedule { warmup_steps, ..CosineSchedule::default() }),
        _ => return None,
    })
}

#[test]
fn rates_match_diffusers() {
    let golden = Golden::open("lr_schedules.safetensors");
    let mut count = 0;
    for (case, settings) in golden.config().as_object().expect("settings by case") {
        let name = settings["name"].as_str().expect("a name");
        let Some(schedule) = schedule(name, settings["num_warmup_steps"].as_u64().unwrap_or(0)) else { continue };
        let (steps, base) = (settings["steps"].as_u64().unwrap(), settings["learning_rate"].as_f64().unwrap());
        // The last is the rate one step past the end.
        let rates: Vec<f64> = (0..=steps).map(|step| base * learning_rate_factor(&schedule, step, steps)).collect();
        // 1e-7: the golden file is read as fp32.
        assert_near(case, &Tensor::from_slice(&rates), &golden.tensor(&format!("output.{case}.lr")), 1e-7);
        count += 1;
    }
    assert!(count >= 6, "only {count} schedules were tried");
}
