//! Our words and those of the wire: types and attributes of tags.

use tagmill_proto::v1;
use tagmill_storage::{TagAttributes, ValueType};

/// A type as the wire writes it.
pub const fn type_to_wire(value_type: ValueType) -> v1::ValueType {
    match value_type {
        ValueType::F64 => v1::ValueType::F64,
        ValueType::F32 => v1::ValueType::F32,
        ValueType::I64 => v1::ValueType::I64,
        ValueType::Bool => v1::ValueType::Bool,
        ValueType::State => v1::ValueType::State,
        ValueType::Text => v1::ValueType::Text,
    }
}

/// Attributes as the wire writes them.
pub fn attributes_to_wire(attributes: &TagAttributes) -> v1::TagAttributes {
    v1::TagAttributes {
        description: attributes.description.clone(),
        unit: attributes.unit.clone(),
        stepped: attributes.stepped,
        range_low: attributes.range_low,
        range_high: attributes.range_high,
        max_gap_ns: attributes.max_gap_ns,
        uncertain_usable: attributes.uncertain_usable,
        rollover: attributes.rollover,
        jitter: attributes.jitter,
        reset_value: attributes.reset_value,
        retention: attributes.retention.clone(),
        state_set: attributes.state_set.clone(),
        labels: attributes
            .labels
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
    }
}
