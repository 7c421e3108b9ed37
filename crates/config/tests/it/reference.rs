//! The generated manual and schema.

use sdtrain_config::{json_schema, option_reference};

use crate::sections::Config;

#[test]
fn the_manual_has_every_key_in_the_order_of_declaration() {
    let expected = "\
## Above all sections

A small configuration.

| key | type | default | meaning |
|---|---|---|---|
| `name` | text | – | Names the outputs. |
| `method` | `\"lora\"`, `\"full\"` | `\"lora\"` | What is trained. `\"lora\"`: A LoRA. `\"full\"`: The whole model. |

## `[model]`

The model.

The model section.

| key | type | default | meaning |
|---|---|---|---|
| `path` | text | required | Where it is. A folder or a file. |
| `vae` | text | – | Another autoencoder. |

## `[data]`

The images.

| key | type | default | meaning |
|---|---|---|---|
| `resolution` | whole number, or list of 2: whole number | `512` | Pixels. |

### `[[data.subsets]]`

| key | type | default | meaning |
|---|---|---|---|
| `path` | text | required | The folder. |
| `repeats` | whole number | `0` | Times an epoch. |
| `shuffle_caption` | true or false | `false` | Reorder captions. |

## `[optimizer]`

The optimizer.

### `[optimizer]` with `type = \"adamw\"` (the default)

Adam with weight decay.

| key | type | default | meaning |
|---|---|---|---|
| `betas` | list of 2: number | `[0.9, 0.999]` | Means. |
| `learning_rate` | number | `0.0001` | Size of a step. |
| `weight_decay` | number | `0.01` | Pull to zero. |

### `[optimizer]` with `type = \"sgd\"`

Gradient descent.

| key | type | default | meaning |
|---|---|---|---|
| `learning_rate` | number | `0.0` | Size of a step. |
| `momentum` | number | `0.0` | Speed that is kept. |

## `[train]`

How long.

How long to train.

| key | type | default | meaning |
|---|---|---|---|
| `max_steps` | whole number | – | Length in steps, not epochs.<br>Second paragraph. |
| `prompts` | list: text | `[]` | Prompts. |

";
    assert_eq!(option_reference::<Config>(), expected);
}

/// Two optimizers, one of which has another inside.
#[expect(dead_code, reason = "only its schema is looked at")]
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Optimizer {
    /// Plain.
    Sgd { momentum: f64 },
    /// Of two kinds.
    Muon { rest: Rest },
}

/// For all else.
#[expect(dead_code, reason = "only its schema is looked at")]
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Rest {
    /// Speed that is kept.
    momentum: f64,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct WithOptimizer {
    optimizer: Optimizer,
}

#[test]
fn a_section_within_a_choice_is_in_the_manual() {
    let manual = option_reference::<WithOptimizer>();
    let (_, muon) = manual.split_once("with `type = \"muon\"`").expect("it is a choice");
    assert!(muon.contains("### `[optimizer.rest]`") && muon.contains("| `momentum` | number |"), "{manual}");
    // The structs are only described.
    let parsed: Result<WithOptimizer, _> = serde_json::from_str(r#"{"optimizer": {"type": "sgd", "momentum": 0.5}}"#);
    assert!(matches!(parsed, Ok(WithOptimizer { optimizer: Optimizer::Sgd { momentum } }) if momentum == 0.5));
}

#[test]
fn the_schema_for_editors_is_json_that_refuses_unknown_keys() {
    let schema: serde_json::Value = serde_json::from_str(&json_schema::<Config>()).expect("it is JSON");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["method"]["default"], "lora");
}
