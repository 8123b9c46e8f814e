//! The wire and disk format: CBOR (RFC 8949) with integer-keyed maps in ascending order, rule V1.
//!
//! `ciborium-ll` reads and writes the CBOR items; this file only says how our types map to them:
//! a struct is a map from small integers to fields, a tuple is an array, an enum is `[tag, body]`.
//! Fields at their default are left out.  Fields and variants this version does not know are kept
//! as the bytes received ([`Ext`]) and written back in place, so that an older node forwards what a
//! newer one said without loss.  Only definite lengths are accepted: one value has one encoding, which
//! is what lets equal versions mean equal bytes (I8).

use alloc::{string::String, vec::Vec};

use ciborium_ll::{Decoder, Encoder, Header};

/// Deepest nesting that [`Dec::skip`] follows in a field it does not know.
const SKIP_DEPTH_MAX: usize = 32;

/// Why bytes did not decode.  Decoding never changes any state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end in the middle of a value, or a length points past their end.
    #[error("the message ends in the middle of a value")]
    Short,
    /// A value of one kind stands where another is expected.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A required field is missing.
    #[error("a required field is missing")]
    Missing,
    /// A number, a length or a nesting above what the field allows.
    #[error("a value is out of range")]
    Range,
    /// Bytes remain after the value.
    #[error("bytes remain after the end of the message")]
    Trailing,
}

/// Writes values into a growing buffer.  Writing to memory cannot fail.
pub struct Enc<'a>(Encoder<&'a mut Vec<u8>>);

impl<'a> Enc<'a> {
    /// An encoder that appends to `buf`.
    pub fn new(buf: &'a mut Vec<u8>) -> Self {
        Self(Encoder::from(buf))
    }
    fn head(&mut self, h: Header) {
        // A `Vec` takes every byte; the error type only exists for real sinks.
        let _ = self.0.push(h);
    }
    /// An unsigned number.
    pub fn uint(&mut self, v: u64) {
        self.head(Header::Positive(v));
    }
    /// The head of an array of `n` items.
    pub fn array(&mut self, n: usize) {
        self.head(Header::Array(Some(n)));
    }
    /// The head of a map of `n` pairs.
    pub fn map(&mut self, n: usize) {
        self.head(Header::Map(Some(n)));
    }
    /// A byte string.
    pub fn bytes(&mut self, v: &[u8]) {
        let _ = self.0.bytes(v, None);
    }
    /// A text string.
    pub fn text(&mut self, v: &str) {
        let _ = self.0.text(v, None);
    }
    /// Bytes that already are one encoded value.
    pub fn raw(&mut self, v: &[u8]) {
        use ciborium_io::Write;
        let _ = self.0.write_all(v);
    }
}

/// Reads values from a slice.
pub struct Dec<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> Dec<'a> {
    /// A decoder at the start of `buf`.
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0 }
    }
    fn rest(&self) -> &'a [u8] {
        self.buf.get(self.at..).unwrap_or(&[])
    }
    fn head(&mut self) -> Result<Header, Malformed> {
        let mut d = Decoder::from(self.rest());
        let h = d.pull().map_err(|_| Malformed::Short)?;
        self.at += d.offset();
        Ok(h)
    }
    /// An unsigned number.
    pub fn uint(&mut self) -> Result<u64, Malformed> {
        match self.head()? {
            Header::Positive(v) => Ok(v),
            _ => Err(Malformed::Expected("a number")),
        }
    }
    /// The head of an array; its length can't be above the bytes that are left.
    pub fn array(&mut self) -> Result<usize, Malformed> {
        match self.head()? {
            Header::Array(Some(n)) if n <= self.rest().len() => Ok(n),
            Header::Array(_) => Err(Malformed::Range),
            _ => Err(Malformed::Expected("an array")),
        }
    }
    /// The head of a map; its length can't be above the bytes that are left.
    pub fn map(&mut self) -> Result<usize, Malformed> {
        match self.head()? {
            Header::Map(Some(n)) if n <= self.rest().len() => Ok(n),
            Header::Map(_) => Err(Malformed::Range),
            _ => Err(Malformed::Expected("a map")),
        }
    }
    fn slice(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let s = self.rest().get(..n).ok_or(Malformed::Short)?;
        self.at += n;
        Ok(s)
    }
    /// A byte string, borrowed.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        match self.head()? {
            Header::Bytes(Some(n)) => self.slice(n),
            _ => Err(Malformed::Expected("a byte string")),
        }
    }
    /// A text string, borrowed.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        match self.head()? {
            Header::Text(Some(n)) => core::str::from_utf8(self.slice(n)?).map_err(|_| Malformed::Expected("UTF-8")),
            _ => Err(Malformed::Expected("a text string")),
        }
    }
    /// Steps over one value of any shape and returns its bytes.
    pub fn skip(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.at;
        self.step(0)?;
        self.buf.get(start..self.at).ok_or(Malformed::Short)
    }
    fn step(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth > SKIP_DEPTH_MAX {
            return Err(Malformed::Range);
        }
        match self.head()? {
            Header::Bytes(Some(n)) | Header::Text(Some(n)) => self.slice(n).map(drop),
            Header::Array(Some(n)) => (0..n).try_for_each(|_| self.step(depth + 1)),
            Header::Map(Some(n)) => (0..n).try_for_each(|_| {
                self.step(depth + 1)?;
                self.step(depth + 1)
            }),
            Header::Tag(_) => self.step(depth + 1),
            Header::Positive(_) | Header::Negative(_) | Header::Float(_) | Header::Simple(_) => Ok(()),
            _ => Err(Malformed::Expected("a definite length")),
        }
    }
    /// Fails when bytes remain.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest().is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// A type with one CBOR form.
pub trait Wire: Sized {
    /// Appends the value.
    fn put(&self, e: &mut Enc<'_>);
    /// Reads the value.
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed>;
    /// True when a struct may leave the field out, because [`Wire::missing`] gives it back.
    fn absent(&self) -> bool {
        false
    }
    /// What a field that was left out stands for.
    fn missing() -> Result<Self, Malformed> {
        Err(Malformed::Missing)
    }
}

/// The encoded form of a value.
pub fn encode<T: Wire>(v: &T) -> Vec<u8> {
    let mut buf = Vec::with_capacity(256);
    v.put(&mut Enc::new(&mut buf));
    buf
}

/// Reads exactly one value.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, Malformed> {
    let mut d = Dec::new(bytes);
    let v = T::take(&mut d)?;
    d.end()?;
    Ok(v)
}

/// Map entries this version does not know: key and encoded value, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ext(pub Vec<(u64, Vec<u8>)>);

impl Ext {
    /// Writes the unknown entries from index `*at` whose key is below `key`.
    pub fn put_below(&self, e: &mut Enc<'_>, at: &mut usize, key: u64) {
        while let Some((k, raw)) = self.0.get(*at).filter(|(k, _)| *k < key) {
            e.uint(*k);
            e.raw(raw);
            *at += 1;
        }
    }
}

macro_rules! uint_wire {
    ($($t:ty),*) => {$(
        impl Wire for $t {
            fn put(&self, e: &mut Enc<'_>) { e.uint(u64::from(*self)); }
            fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> { <$t>::try_from(d.uint()?).map_err(|_| Malformed::Range) }
            fn absent(&self) -> bool { *self == 0 }
            fn missing() -> Result<Self, Malformed> { Ok(0) }
        }
    )*};
}
uint_wire!(u8, u16, u32, u64);

impl Wire for bool {
    fn put(&self, e: &mut Enc<'_>) {
        e.uint(u64::from(*self));
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        match d.uint()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Range),
        }
    }
    fn absent(&self) -> bool {
        !*self
    }
    fn missing() -> Result<Self, Malformed> {
        Ok(false)
    }
}

impl Wire for i32 {
    fn put(&self, e: &mut Enc<'_>) {
        match u64::try_from(*self) {
            Ok(v) => e.head(Header::Positive(v)),
            Err(_) => e.head(Header::Negative((-1i64 - i64::from(*self)).unsigned_abs())),
        }
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        match d.head()? {
            Header::Positive(v) => i32::try_from(v).map_err(|_| Malformed::Range),
            Header::Negative(v) => i64::try_from(v).ok().and_then(|v| i32::try_from(-1 - v).ok()).ok_or(Malformed::Range),
            _ => Err(Malformed::Expected("a number")),
        }
    }
}

impl Wire for u128 {
    fn put(&self, e: &mut Enc<'_>) {
        e.bytes(&self.to_be_bytes());
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        Ok(u128::from_be_bytes(d.bytes()?.try_into().map_err(|_| Malformed::Range)?))
    }
    fn absent(&self) -> bool {
        *self == 0
    }
    fn missing() -> Result<Self, Malformed> {
        Ok(0)
    }
}

impl Wire for String {
    fn put(&self, e: &mut Enc<'_>) {
        e.text(self);
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        Ok(d.text()?.into())
    }
    fn absent(&self) -> bool {
        self.is_empty()
    }
    fn missing() -> Result<Self, Malformed> {
        Ok(String::new())
    }
}

/// A byte string.  (A `Vec<u8>` would be an array of numbers.)
#[derive(Debug, Clone, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Blob(pub Vec<u8>);

impl Wire for Blob {
    fn put(&self, e: &mut Enc<'_>) {
        e.bytes(&self.0);
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        Ok(Self(d.bytes()?.into()))
    }
    fn absent(&self) -> bool {
        self.0.is_empty()
    }
    fn missing() -> Result<Self, Malformed> {
        Ok(Self::default())
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, e: &mut Enc<'_>) {
        match self {
            Some(v) => {
                e.array(1);
                v.put(e);
            }
            None => e.array(0),
        }
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        match d.array()? {
            0 => Ok(None),
            1 => Ok(Some(T::take(d)?)),
            _ => Err(Malformed::Range),
        }
    }
    fn absent(&self) -> bool {
        self.is_none()
    }
    fn missing() -> Result<Self, Malformed> {
        Ok(None)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, e: &mut Enc<'_>) {
        e.array(self.len());
        for v in self {
            v.put(e);
        }
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        let n = d.array()?;
        // The length is a claim until the items are read: reserve little.
        let mut v = Vec::with_capacity(n.min(64));
        for _ in 0..n {
            v.push(T::take(d)?);
        }
        Ok(v)
    }
    fn absent(&self) -> bool {
        self.is_empty()
    }
    fn missing() -> Result<Self, Malformed> {
        Ok(Vec::new())
    }
}

macro_rules! tuple_wire {
    ($n:literal; $($t:ident . $i:tt),*) => {
        impl<$($t: Wire),*> Wire for ($($t,)*) {
            fn put(&self, e: &mut Enc<'_>) { e.array($n); $(self.$i.put(e);)* }
            fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
                if d.array()? != $n { return Err(Malformed::Range); }
                Ok(($($t::take(d)?,)*))
            }
        }
    };
}
tuple_wire!(2; A.0, B.1);
tuple_wire!(3; A.0, B.1, C.2);

/// A struct that travels as a CBOR array in the order of its fields.  For small values that are final:
/// ids, versions.  A longer array is refused, so such a type never grows.
#[macro_export]
macro_rules! wire_tuple {
    ($name:ident { $($f:ident),* }) => {
        impl $crate::codec::Wire for $name {
            fn put(&self, e: &mut $crate::codec::Enc<'_>) {
                e.array([$(stringify!($f)),*].len());
                $($crate::codec::Wire::put(&self.$f, e);)*
            }
            fn take(d: &mut $crate::codec::Dec<'_>) -> Result<Self, $crate::codec::Malformed> {
                if d.array()? != [$(stringify!($f)),*].len() { return Err($crate::codec::Malformed::Range); }
                Ok(Self { $($f: $crate::codec::Wire::take(d)?),* })
            }
        }
    };
}

/// A struct that travels as an integer-keyed map; unknown keys are kept in its field `ext`.
/// Keys must ascend: a test of the macro's users round-trips them.
#[macro_export]
macro_rules! wire_struct {
    ($(#[$m:meta])* pub struct $name:ident { $($(#[$fm:meta])* $k:literal => $f:ident : $t:ty),* $(,)? }) => {
        $(#[$m])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$fm])* pub $f: $t,)*
            /// Fields of a newer version, kept as received.
            #[allow(dead_code, reason = "read through the codec")]
            pub ext: $crate::codec::Ext,
        }
        impl $crate::codec::Wire for $name {
            fn put(&self, e: &mut $crate::codec::Enc<'_>) {
                let mut n = self.ext.0.len();
                $(if !$crate::codec::Wire::absent(&self.$f) { n += 1; })*
                e.map(n);
                let mut at = 0;
                $(
                    self.ext.put_below(e, &mut at, $k);
                    if !$crate::codec::Wire::absent(&self.$f) {
                        e.uint($k);
                        $crate::codec::Wire::put(&self.$f, e);
                    }
                )*
                self.ext.put_below(e, &mut at, u64::MAX);
            }
            fn take(d: &mut $crate::codec::Dec<'_>) -> Result<Self, $crate::codec::Malformed> {
                $(let mut $f: Option<$t> = None;)*
                let mut ext = $crate::codec::Ext::default();
                let mut last: Option<u64> = None;
                for _ in 0..d.map()? {
                    let key = d.uint()?;
                    if last.is_some_and(|l| key <= l) {
                        return Err($crate::codec::Malformed::Expected("ascending keys"));
                    }
                    last = Some(key);
                    match key {
                        $($k => $f = Some($crate::codec::Wire::take(d)?),)*
                        _ => ext.0.push((key, d.skip()?.into())),
                    }
                }
                Ok(Self {
                    $($f: match $f { Some(v) => v, None => $crate::codec::Wire::missing()? },)*
                    ext,
                })
            }
        }
    };
}

/// An enum that travels as `[tag, body]`; an unknown tag is kept as received.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$m:meta])* pub enum $name:ident { $($(#[$vm:meta])* $k:literal => $v:ident ( $t:ty )),* $(,)? }) => {
        $(#[$m])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vm])* $v($t),)*
            /// A variant of a newer version: tag and encoded body.
            Unknown(u64, $crate::codec::Blob),
        }
        impl $name {
            /// The variant's name, for counters and traces.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$v(_) => stringify!($v),)* Self::Unknown(..) => "Unknown" }
            }
        }
        impl $crate::codec::Wire for $name {
            fn put(&self, e: &mut $crate::codec::Enc<'_>) {
                e.array(2);
                match self {
                    $(Self::$v(b) => { e.uint($k); $crate::codec::Wire::put(b, e); })*
                    Self::Unknown(k, raw) => { e.uint(*k); e.raw(&raw.0); }
                }
            }
            fn take(d: &mut $crate::codec::Dec<'_>) -> Result<Self, $crate::codec::Malformed> {
                if d.array()? != 2 { return Err($crate::codec::Malformed::Range); }
                Ok(match d.uint()? {
                    $($k => Self::$v($crate::codec::Wire::take(d)?),)*
                    k => Self::Unknown(k, $crate::codec::Blob(d.skip()?.into())),
                })
            }
        }
    };
}

/// An enum of plain choices that travels as a number; an unknown number is refused.
#[macro_export]
macro_rules! wire_choice {
    ($(#[$m:meta])* pub enum $name:ident { $($(#[$vm:meta])* $k:literal => $v:ident = $text:literal),* $(,)? }) => {
        $(#[$m])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vm])* #[serde(rename = $text)] $v = $k,)* }
        impl $name {
            /// All choices, in order.
            pub const ALL: &'static [Self] = &[$(Self::$v),*];
            /// The word a person types and reads.
            pub fn word(self) -> &'static str { match self { $(Self::$v => $text,)* } }
        }
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.pad(self.word()) }
        }
        impl core::str::FromStr for $name {
            type Err = alloc::string::String;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|v| v.word() == s).ok_or_else(|| {
                    let all: alloc::vec::Vec<&str> = Self::ALL.iter().map(|v| v.word()).collect();
                    alloc::format!("'{s}' is none of {}", all.join(", "))
                })
            }
        }
        impl $crate::codec::Wire for $name {
            fn put(&self, e: &mut $crate::codec::Enc<'_>) { e.uint(*self as u64); }
            fn take(d: &mut $crate::codec::Dec<'_>) -> Result<Self, $crate::codec::Malformed> {
                match d.uint()? { $($k => Ok(Self::$v),)* _ => Err($crate::codec::Malformed::Range) }
            }
        }
    };
}
