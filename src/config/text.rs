//! Values as they are written, before anything is known about what they mean.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A value as it was typed: a string, or in the file also a bare number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub(super) String);

impl FromStr for Text {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or a whole number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// A program and its arguments: on the command line one string, which is split into words as a shell does without
/// expanding anything, in the file an array of strings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Words(pub(super) Vec<String>);

impl FromStr for Words {
    type Err = shell_words::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        shell_words::split(text).map(Self)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
