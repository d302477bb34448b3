//! Names of network devices in a form that can be copied.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::MAX_NAME_LEN;

/// Name of a network device as the kernel takes it (`dev_valid_name` of `net/core/dev.c`): 1 to 15 bytes without slash,
/// colon and white space, and neither `.` nor `..`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName {
    /// Filled up with zeroes, which no name has.
    bytes: [u8; MAX_NAME_LEN],
}

/// The text is no name of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device's name has 1 to 15 bytes, without slash, colon and white space")]
pub struct NotAName;

impl DeviceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(MAX_NAME_LEN);
        self.bytes.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl FromStr for DeviceName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let is_bad = |character: char| "/:\0".contains(character) || character.is_whitespace();
        if text.is_empty() || text.chars().any(is_bad) || [".", ".."].contains(&text) {
            return Err(NotAName);
        }
        let mut bytes = [0; MAX_NAME_LEN];
        bytes.get_mut(..text.len()).ok_or(NotAName)?.copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl TryFrom<String> for DeviceName {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_kernel_takes() {
        for text in ["a", "br0", "br-lan.100", "fifteen-bytes-x", "brücke"] {
            let name: DeviceName = text.parse().unwrap();
            assert_eq!((name.as_str(), name.to_string().as_str()), (text, text));
            assert_eq!(serde_json::from_str::<DeviceName>(&serde_json::to_string(&name).unwrap()).unwrap(), name);
        }
        for text in ["", "sixteen-bytes-xy", "a/b", "a b", "a:b", ".", "..", "a\n", "a\0"] {
            assert_eq!(text.parse::<DeviceName>(), Err(NotAName), "{text:?}");
            assert!(serde_json::from_str::<DeviceName>(&serde_json::to_string(text).unwrap()).is_err());
        }
    }
}
