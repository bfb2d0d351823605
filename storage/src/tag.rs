//! A tag: one measured point of the plant. Its id and type never change; its name and attributes may.
//!
//! No stored sample depends on an attribute, so an edit applies to all history at once.

mod labels;

use std::fmt;
use std::sync::Arc;

use crate::limits;
pub use labels::Labels;

/// Number of a tag, dense from 0, never reused. Names of tags never reach the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagId(pub u32);

impl TagId {
    /// The id as a position in a table of all tags.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for TagId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Type of a tag's values. The numbers are part of the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ValueType {
    /// 64-bit float, kept to the bit.
    F64 = 1,
    /// 32-bit float, kept to the bit.
    F32 = 2,
    /// 64-bit signed integer.
    I64 = 3,
    /// True or false.
    Bool = 4,
    /// Code of a named state set.
    State = 5,
    /// UTF-8 text.
    Text = 6,
}

impl ValueType {
    /// Every type, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::F64, Self::F32, Self::I64, Self::Bool, Self::State, Self::Text];

    /// The type with this number, if there is one.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::F64,
            2 => Self::F32,
            3 => Self::I64,
            4 => Self::Bool,
            5 => Self::State,
            6 => Self::Text,
            _ => return None,
        })
    }

    /// The type's number in the formats.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The type's name, as SQL, the command line and the docs write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::I64 => "i64",
            Self::Bool => "bool",
            Self::State => "state",
            Self::Text => "text",
        }
    }

    /// The type with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|candidate| candidate.name() == name)
    }

    /// Whether a tag of this type holds its value between samples unless its attributes say otherwise.
    pub const fn is_stepped_by_default(self) -> bool {
        !matches!(self, Self::F64 | Self::F32)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What people know about a tag beyond its name and type. `None` and empty mean "not said".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TagAttributes {
    /// What the tag measures, in words.
    pub description: Option<String>,
    /// Unit of its values. Never parsed.
    pub unit: Option<String>,
    /// Whether the value holds until the next sample; by default it follows from the type.
    pub stepped: Option<bool>,
    /// Lower end of the instrument's range.
    pub range_low: Option<f64>,
    /// Upper end of the instrument's range.
    pub range_high: Option<f64>,
    /// Beyond this distance nothing is held or drawn between two samples, nanoseconds.
    pub max_gap_ns: Option<i64>,
    /// Whether interval functions use samples of Uncertain quality; by default not.
    pub uncertain_usable: Option<bool>,
    /// Modulus of a counter.
    pub rollover: Option<f64>,
    /// How far a counter may fall back by noise.
    pub jitter: Option<f64>,
    /// Value a counter restarts from.
    pub reset_value: Option<f64>,
    /// Retention class; by default the database's.
    pub retention: Option<String>,
    /// Name of the state set of a `state` tag; by default the tag's own name.
    pub state_set: Option<String>,
    /// key=value attributes, such as `area` or `line`.
    pub labels: Labels,
}

impl TagAttributes {
    /// Takes from `other` what is not said here: how a gateway's definition meets what people have edited.
    pub fn fill_from(&mut self, other: &Self) {
        fn fill<T: Clone>(mine: &mut Option<T>, theirs: Option<&T>) {
            if mine.is_none() {
                *mine = theirs.cloned();
            }
        }
        fill(&mut self.description, other.description.as_ref());
        fill(&mut self.unit, other.unit.as_ref());
        fill(&mut self.stepped, other.stepped.as_ref());
        fill(&mut self.range_low, other.range_low.as_ref());
        fill(&mut self.range_high, other.range_high.as_ref());
        fill(&mut self.max_gap_ns, other.max_gap_ns.as_ref());
        fill(&mut self.uncertain_usable, other.uncertain_usable.as_ref());
        fill(&mut self.rollover, other.rollover.as_ref());
        fill(&mut self.jitter, other.jitter.as_ref());
        fill(&mut self.reset_value, other.reset_value.as_ref());
        fill(&mut self.retention, other.retention.as_ref());
        fill(&mut self.state_set, other.state_set.as_ref());
        for (key, value) in other.labels.iter() {
            if self.labels.get(key).is_none() {
                self.labels.insert(Arc::clone(key), Arc::clone(value));
            }
        }
    }

    /// Whether these attributes can be stored.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), &'static str> {
        let texts = [&self.description, &self.unit, &self.retention, &self.state_set];
        let labels = self.labels.iter().flat_map(|(key, value)| [key.as_ref(), value.as_ref()]);
        let texts = texts.into_iter().flatten().map(String::as_str);
        if texts.chain(labels).any(|text| text.len() > limits::TAG_TEXT_BYTES_MAX) {
            return Err("a description, unit or label is longer than 4 KiB");
        }
        if self.labels.len() > limits::TAG_LABELS_MAX {
            return Err("a tag has at most 64 labels");
        }
        if self.max_gap_ns.is_some_and(|gap| gap <= 0) {
            return Err("max_gap must be positive");
        }
        let numbers = [self.range_low, self.range_high, self.jitter, self.reset_value];
        if numbers.into_iter().flatten().any(|n| !n.is_finite()) {
            return Err("range, jitter and reset value must be finite");
        }
        if self.rollover.is_some_and(|modulus| !(modulus.is_finite() && modulus > 0.0)) {
            return Err("rollover must be a positive number");
        }
        Ok(())
    }
}

/// A tag to be known: what a gateway, an import or a person asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct TagDefinition {
    /// Full name, levels separated by `/`.
    pub name: String,
    /// Type of its values.
    pub value_type: ValueType,
    /// Attributes; those the tag already has win.
    pub attributes: TagAttributes,
}

impl TagDefinition {
    /// A definition without attributes.
    pub fn new(name: impl Into<String>, value_type: ValueType) -> Self {
        Self { name: name.into(), value_type, attributes: TagAttributes::default() }
    }
}

/// A known tag.
#[derive(Clone, Debug, PartialEq)]
pub struct Tag {
    /// Its number.
    pub id: TagId,
    /// Its full name; empty once the tag is deleted.
    pub name: Arc<str>,
    /// Type of its values.
    pub value_type: ValueType,
    /// Its attributes.
    pub attributes: TagAttributes,
    /// Wall clock when it was defined, nanoseconds since 1970 UTC.
    pub created_ns: i64,
}

impl Tag {
    /// Whether the value holds until the next sample (else a line is drawn).
    pub fn is_stepped(&self) -> bool {
        self.attributes.stepped.unwrap_or(self.value_type.is_stepped_by_default())
    }

    /// Name of the state set that gives this tag's codes their labels.
    pub fn state_set(&self) -> &str {
        self.attributes.state_set.as_deref().unwrap_or(&self.name)
    }

    /// Whether the tag was deleted: its name is free, its samples are gone.
    pub fn is_deleted(&self) -> bool {
        self.name.is_empty()
    }
}

/// Whether `name` can name a tag.
///
/// A name has 1 to 512 bytes in 1 to 32 levels separated by `/`, none of them empty, `.` or `..`, no control or
/// direction-changing characters, and no space at its ends.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("a tag name must not be empty");
    }
    if name.len() > limits::TAG_NAME_BYTES_MAX {
        return Err("a tag name has at most 512 bytes");
    }
    if name.chars().any(is_forbidden) {
        return Err("a tag name must not hold control or direction-changing characters");
    }
    if name.trim() != name {
        return Err("a tag name must not begin or end with a space");
    }
    if name.split('/').count() > limits::TAG_NAME_LEVELS_MAX {
        return Err("a tag name has at most 32 levels");
    }
    if name.split('/').any(|level| matches!(level, "" | "." | "..")) {
        return Err("a level of a tag name must not be empty, '.' or '..'");
    }
    Ok(())
}

/// Control characters, and those that reorder or hide the text around them.
fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_names_that_mislead() {
        for name in ["", "a\nb", "a\u{202E}b", " a", "a/", "/a", "a//b", "a/../b", "a\0"] {
            assert!(check_name(name).is_err(), "{name:?} was taken");
        }
        assert!(check_name(&"x".repeat(513)).is_err());
        assert!(check_name(&vec!["x"; 33].join("/")).is_err());
        for name in ["a", "unit 3/FT-101.PV", "Hülle/Ü", "GFAgie01/path/x"] {
            assert_eq!(check_name(name), Ok(()), "{name:?} was refused");
        }
    }

    #[test]
    fn a_definition_fills_only_what_is_unset() {
        let mut mine = TagAttributes { unit: Some("bar".into()), ..TagAttributes::default() };
        mine.labels.insert("area", "U1");
        let mut theirs = TagAttributes { unit: Some("psi".into()), ..TagAttributes::default() };
        theirs.stepped = Some(true);
        theirs.labels.insert("area", "U2");
        theirs.labels.insert("line", "4");
        mine.fill_from(&theirs);
        assert_eq!(mine.unit.as_deref(), Some("bar"));
        assert_eq!(mine.stepped, Some(true));
        assert_eq!(&mine.labels["area"], "U1");
        assert_eq!(&mine.labels["line"], "4");
    }
}
