//! Reading TOML with places: every value knows its file, line and key, every table which of its
//! keys were asked for. What is wrong is collected, so that one run shows all of it.

use std::{cell::RefCell, ops::Range, time::Duration};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::suggest::nearest;
use crate::{
    code::{Code, Problem},
    units,
};

/// As many problems as are shown at once; what follows is dropped.
const PROBLEMS: usize = 50;

/// One file being read.
pub(super) struct Document<'a> {
    name: &'a str,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, problems: RefCell::default() }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// Whether nothing was found wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    fn line(&self, offset: usize) -> u32 {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        let breaks = before.iter().filter(|byte| **byte == b'\n').count();
        u32::try_from(breaks + 1).unwrap_or(u32::MAX)
    }

    /// Notes what is wrong at a place.
    pub(super) fn refuse(
        &self,
        at: Option<usize>,
        key: &str,
        code: Code,
        message: String,
        hint: Option<String>,
    ) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS {
            problems.push(Problem {
                code,
                message,
                file: Some(self.name.to_owned()),
                line: at.map(|offset| self.line(offset)),
                key: (!key.is_empty()).then(|| key.to_owned()),
                hint,
            });
        }
    }
}

/// A value and its place.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    document: &'a Document<'a>,
    value: &'a DeValue<'a>,
    start: usize,
    key: &'a str,
    scope: &'a str,
}

impl<'a> Value<'a> {
    /// The key with its path.
    pub(super) fn path(&self) -> String {
        join(self.scope, self.key)
    }

    /// The line that it stands in, from 1.
    pub(super) fn line(&self) -> u32 {
        self.document.line(self.start)
    }

    /// Notes that this value is refused.
    pub(super) fn refuse(&self, code: Code, message: impl Into<String>, hint: Option<String>) {
        self.document.refuse(Some(self.start), &self.path(), code, message.into(), hint);
    }

    fn expected(&self, what: &str, example: &str) {
        let message = format!("`{}` takes {what}, not {}", self.key, article(self.value.type_str()));
        self.refuse(Code::WrongType, message, Some(format!("write it as `{} = {example}`", self.key)));
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        self.text_as("\"…\"")
    }

    fn text_as(&self, example: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.expected("a string", example);
        }
        text
    }

    pub(super) fn bool(&self) -> Option<bool> {
        let bool = self.value.as_bool();
        if bool.is_none() {
            self.expected("true or false", "true");
        }
        bool
    }

    /// A whole number within a range.
    pub(super) fn integer(&self, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let Some(integer) = self.value.as_integer() else {
            let meant = self.value.as_str().filter(|text| text.parse().is_ok_and(|n| range.contains(&n)));
            self.expected("a whole number", meant.unwrap_or(&range.start().to_string()));
            return None;
        };
        let digits = integer.as_str().replace('_', "");
        let number = u64::from_str_radix(&digits, integer.radix()).ok().filter(|n| range.contains(n));
        if number.is_none() {
            let message =
                format!("`{}` is {digits}; it can be {} to {}", self.key, range.start(), range.end());
            self.refuse(Code::InvalidValue, message, None);
        }
        number
    }

    /// A number of whole or broken units, in thousandths.
    pub(super) fn thousandths(&self, max: f64) -> Option<u32> {
        let text = self
            .value
            .as_float()
            .map(|float| float.as_str().replace('_', ""))
            .or_else(|| self.value.as_integer().map(|integer| integer.as_str().replace('_', "")));
        let Some(text) = text else {
            self.expected("a number", "0.5");
            return None;
        };
        let number = text.parse::<f64>().ok().filter(|number| (0.0..=max).contains(number));
        if number.is_none() {
            let message = format!("`{}` is {text}; it can be 0 to {max}", self.key);
            self.refuse(Code::InvalidValue, message, None);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and max")]
        number.map(|number| (number * 1000.0).round() as u32)
    }

    pub(super) fn duration(&self) -> Option<Duration> {
        let text = self.text_as("\"30s\"")?;
        units::duration(text).map_err(|error| self.refuse(Code::InvalidValue, error.to_string(), None)).ok()
    }

    pub(super) fn size(&self) -> Option<u64> {
        let text = self.text_as("\"64MiB\"")?;
        units::size(text).map_err(|error| self.refuse(Code::InvalidValue, error.to_string(), None)).ok()
    }

    /// A list of strings, at most `most`.
    pub(super) fn texts(&self, most: usize) -> Option<Vec<Value<'a>>> {
        let Some(array) = self.value.as_array() else {
            self.expected("a list of strings", "[\"…\"]");
            return None;
        };
        if array.len() > most {
            self.refuse(Code::InvalidValue, format!("`{}` takes at most {most} values", self.key), None);
            return None;
        }
        let items: Vec<_> = array.iter().map(|item| self.item(item)).collect();
        items.iter().all(|item| item.text().is_some()).then_some(items)
    }

    fn item(&self, item: &'a Spanned<DeValue<'a>>) -> Self {
        Self { value: item.get_ref(), start: item.span().start, ..*self }
    }

    /// A table.
    pub(super) fn table(&self) -> Option<Table<'a>> {
        let Some(table) = self.value.as_table() else {
            self.expected("a table", "{ … }");
            return None;
        };
        Some(Table {
            document: self.document,
            table,
            path: self.path(),
            start: self.start,
            asked: RefCell::default(),
        })
    }
}

/// A table and its place.
pub(super) struct Table<'a> {
    document: &'a Document<'a>,
    table: &'a DeTable<'a>,
    path: String,
    start: usize,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    pub(super) fn root(document: &'a Document<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self {
            document,
            table: table.get_ref(),
            path: String::new(),
            start: table.span().start,
            asked: RefCell::default(),
        }
    }

    pub(super) fn refuse(&self, code: Code, message: impl Into<String>, hint: Option<String>) {
        self.document.refuse(Some(self.start), &self.path, code, message.into(), hint);
    }

    fn value<'t>(&'t self, key: &'t Spanned<DeString<'a>>, value: &'t Spanned<DeValue<'a>>) -> Value<'t> {
        let Range { start, .. } = key.span();
        Value {
            document: self.document,
            value: value.get_ref(),
            start,
            key: key.get_ref(),
            scope: &self.path,
        }
    }

    /// The value of a key, if it is written.
    pub(super) fn get<'t>(&'t self, key: &'static str) -> Option<Value<'t>> {
        self.asked.borrow_mut().push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, value)| self.value(name, value))
    }

    /// Every key with its value, for tables whose keys are names.
    pub(super) fn entries<'t>(&'t self) -> impl Iterator<Item = (&'t str, Value<'t>)> {
        self.table.iter().map(|(name, value)| (name.get_ref().as_ref(), self.value(name, value)))
    }

    /// Keys of the design that this version doesn't make work.
    pub(super) fn not_supported(&self, keys: &[&'static str]) {
        for key in keys {
            if let Some(value) = self.get(key) {
                value.refuse(
                    Code::NotSupported,
                    format!("`{}` is not supported yet", value.path()),
                    Some("take it out; Minato never accepts a key without giving it effect".to_owned()),
                );
            }
        }
    }

    /// To be called last: every key that nobody asked for is unknown.
    pub(super) fn finish(&self) {
        let asked = self.asked.borrow();
        for (name, value) in self.entries() {
            if !asked.contains(&name) {
                let meant = nearest(name, asked.iter().copied());
                value.refuse(
                    Code::UnknownKey,
                    format!("`{}` is no key of {}", value.key, self.title()),
                    Some(meant.map_or_else(
                        || format!("it takes {}", asked.join(", ")),
                        |meant| format!("did you mean `{meant}`?"),
                    )),
                );
            }
        }
    }

    fn title(&self) -> String {
        if self.path.is_empty() { "a manifest".to_owned() } else { format!("[{}]", self.path) }
    }
}

fn join(scope: &str, key: &str) -> String {
    if scope.is_empty() { key.to_owned() } else { format!("{scope}.{key}") }
}

fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}
