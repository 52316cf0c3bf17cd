//! Lets a person write `priority: high` and `timeout: 10m` where canonical proto3 JSON wants `TASK_PRIORITY_HIGH` and
//! `600s`.
//!
//! [`Words`] stands between the parser and the generated code: it forwards everything, watches the names of message
//! fields go by, and rewrites the values of those that hold an enum or a duration. Errors come from the parser's own
//! position, so they keep their line and column. What stands in a map or in free JSON (`metadata`, `env`,
//! `default_value`) is data, and nothing in it is rewritten.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::text;
use crate::proto::v1::{
    CatchUpPolicy, ComparisonOperator, ConditionType, FailurePolicy, FoldPolicy, GapPolicy, OnInterrupt, OutputFormat,
    OverlapPolicy, ParameterType, TaskPriority, TriggerRule, WorkflowStatus,
};

/// A deserializer whose enum words and durations are made canonical on the way.
pub struct Words<D> {
    inner: D,
    field: Field,
}

impl<D> Words<D> {
    /// Around the root of a document.
    pub fn new(inner: D) -> Self {
        Self { inner, field: Field::Plain }
    }
}

/// What the name of a field says about its value.
#[derive(Clone, Copy, Default)]
enum Field {
    #[default]
    Plain,
    Span,
    Word(&'static Enumeration),
}

impl Field {
    /// By either spelling of its name. The names are unambiguous over the whole of `nox.v1`'s file messages.
    fn named(name: &str) -> Self {
        let snake = snake_case(name);
        if SPANS.contains(&snake.as_str()) {
            return Self::Span;
        }
        ENUMERATIONS.iter().find(|known| known.field == snake).map_or(Self::Plain, Self::Word)
    }
}

/// An enum of the schema.
struct Enumeration {
    field: &'static str,
    prefix: &'static str,
    name: fn(i32) -> Option<&'static str>,
}

impl Enumeration {
    /// The canonical name for a short or a long word in any case.
    fn canonical(&self, word: &str) -> Result<&'static str, String> {
        let upper = word.trim().to_ascii_uppercase().replace('-', "_");
        let short = upper.strip_prefix(self.prefix).unwrap_or(&upper);
        let found = self.names().find(|name| &name[self.prefix.len()..] == short);
        found.ok_or_else(|| {
            let known: Vec<_> = self.names().skip(1).map(|name| &name[self.prefix.len()..]).collect();
            format!("`{}` is no {}: write {}", word.escape_debug(), self.field, or_list(&known))
        })
    }

    /// The schema counts its values from 0 without a gap; the first is "unspecified".
    fn names(&self) -> impl Iterator<Item = &'static str> {
        (0..).map_while(self.name)
    }
}

macro_rules! enumerations {
    ($($field:literal $prefix:literal $kind:ident),* $(,)?) => {
        &[$(Enumeration {
            field: $field,
            prefix: $prefix,
            name: |value| $kind::try_from(value).ok().map(|value| value.as_str_name()),
        }),*]
    };
}

const ENUMERATIONS: &[Enumeration] = enumerations![
    "priority" "TASK_PRIORITY_" TaskPriority,
    "trigger_rule" "TRIGGER_RULE_" TriggerRule,
    "condition_type" "CONDITION_TYPE_" ConditionType,
    "operator" "COMPARISON_OPERATOR_" ComparisonOperator,
    "failure_policy" "FAILURE_POLICY_" FailurePolicy,
    "on_interrupt" "ON_INTERRUPT_" OnInterrupt,
    "output_format" "OUTPUT_FORMAT_" OutputFormat,
    "overlap_policy" "OVERLAP_POLICY_" OverlapPolicy,
    "catch_up" "CATCH_UP_POLICY_" CatchUpPolicy,
    "gap_policy" "GAP_POLICY_" GapPolicy,
    "fold_policy" "FOLD_POLICY_" FoldPolicy,
    "parameter_type" "PARAMETER_TYPE_" ParameterType,
    // Output only, but a workflow that was shown must be readable again.
    "status" "WORKFLOW_STATUS_" WorkflowStatus,
];

/// A workflow's status by its short or long word, in any case; the error says which words there are.
pub fn workflow_status(word: &str) -> Result<WorkflowStatus, String> {
    let known = ENUMERATIONS.iter().find(|known| known.field == "status");
    let name = known.map_or(Ok(""), |known| known.canonical(word))?;
    WorkflowStatus::from_str_name(name).ok_or_else(|| format!("`{}` is no status", word.escape_debug()))
}

const SPANS: &[&str] = &[
    "catch_up_window",
    "delay",
    "delay_threshold",
    "duration",
    "execution_timeout",
    "idle_timeout",
    "increment",
    "initial_delay",
    "interval",
    "jitter",
    "max_delay",
    "queue_timeout",
    "timeout",
];

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

/// `A, B or C`.
pub fn or_list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [before @ .., last] => format!("{} or {last}", before.join(", ")),
    }
}

macro_rules! forward {
    ($($method:ident($($argument:ident: $kind:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($argument,)* visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Words<D> {
    type Error = D::Error;

    // The generated code asks for an enum's value this way, free JSON too; only the name tells them apart.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        match self.field {
            Field::Plain | Field::Span => self.inner.deserialize_any(visitor),
            Field::Word(_) => self.inner.deserialize_any(Rewriting { visitor, field: self.field }),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        match self.field {
            Field::Plain | Field::Word(_) => self.inner.deserialize_str(visitor),
            Field::Span => self.inner.deserialize_str(Rewriting { visitor, field: self.field }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(Rewriting { visitor, field: self.field })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_seq(Rewriting { visitor, field: self.field })
    }

    // Messages come through here, maps do not: their keys are data.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_struct(name, fields, Rewriting { visitor, field: Field::Plain })
    }

    forward! {
        deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char() deserialize_string() deserialize_bytes()
        deserialize_byte_buf() deserialize_unit() deserialize_map() deserialize_identifier() deserialize_ignored_any()
        deserialize_unit_struct(name: &'static str) deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(len: usize) deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// A visitor that rewrites text by its field, and puts [`Words`] around what is nested.
struct Rewriting<V> {
    visitor: V,
    field: Field,
}

impl<'de, V: Visitor<'de>> Rewriting<V> {
    fn rewrite<E: Error>(self, text: &str) -> Result<V::Value, E> {
        match self.field {
            Field::Plain => self.visitor.visit_str(text),
            Field::Word(enumeration) => self.visitor.visit_str(enumeration.canonical(text).map_err(E::custom)?),
            Field::Span => {
                let span = text::parse_span(text).map_err(E::custom)?;
                let sign = if span.seconds < 0 || span.nanos < 0 { "-" } else { "" };
                let nanos = span.nanos.unsigned_abs();
                self.visitor.visit_str(&format!("{sign}{}.{nanos:09}s", span.seconds.unsigned_abs()))
            }
        }
    }
}

macro_rules! visit_as_is {
    ($($method:ident: $kind:ty),*) => {
        $(fn $method<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Rewriting<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(formatter)
    }

    visit_as_is! {
        visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64,
        visit_bytes: &[u8]
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        self.rewrite(text)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Words { inner, field: self.field })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(inner)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Elements { inner, field: self.field })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Fields { inner, field: Field::Plain })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(inner)
    }
}

/// The elements of a list: each is what the list's field says.
struct Elements<A> {
    inner: A,
    field: Field,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.inner.next_element_seed(Nested { seed, field: self.field })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The fields of a message: the name that went by last says what the next value is.
struct Fields<A> {
    inner: A,
    field: Field,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let name = Cell::new(Field::Plain);
        let key = self.inner.next_key_seed(Overheard { inner: seed, name: &name })?;
        self.field = name.get();
        Ok(key)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.next_value_seed(Nested { seed, field: self.field })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// Hands [`Words`] to what deserializes itself next.
struct Nested<T> {
    seed: T,
    field: Field,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Nested<T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        self.seed.deserialize(Words { inner, field: self.field })
    }
}

/// Listens to a field's name on its way to the generated code: as seed, as deserializer and as visitor.
struct Overheard<'name, T> {
    inner: T,
    name: &'name Cell<Field>,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Overheard<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        self.inner.deserialize(Overheard { inner, name: self.name })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Overheard<'_, D> {
    type Error = D::Error;

    // Every way of asking for a field's name is the same question.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_identifier(Overheard { inner: visitor, name: self.name })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Overheard<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<V::Value, E> {
        self.name.set(Field::named(name));
        self.inner.visit_str(name)
    }
}
