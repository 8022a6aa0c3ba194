//! A state to be damaged.

use cgtap_sys::bpf::{Map, MapSpec, MapType};

use super::shape::Shape;
use crate::support::Sandbox;

/// A map that is none of ours.
pub fn stray() -> Map {
    Map::create(&MapSpec {
        name: "stray",
        map_type: MapType::Array,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        flags: 0,
    })
    .unwrap()
}

/// Attached twice to `c`, and run 5 times.
pub fn sandbox(name: &str) -> (Sandbox, Shape) {
    let sandbox = Sandbox::new(name);
    sandbox.attach("c", "robust");
    sandbox.attach("c", "robust");
    let shape = Shape::of(&sandbox);
    shape.runs(&sandbox, "c", 5);
    (sandbox, shape)
}
