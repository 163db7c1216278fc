//! What went wrong, as a person should read it: an error, a hint, an exit code. Made by commands,
//! printed once by `cli::run`.

use std::fmt::Display;

/// Exit code of a command that did not do what it was asked to.
pub const FAILED: u8 = 1;
/// Exit code of a status that cannot be told.
pub const CANNOT_TELL: u8 = 2;
/// Exit code of wrong usage.
pub const USAGE: u8 = 64;

/// An error with what to do about it.
#[derive(Debug)]
pub struct Failure {
    /// What was attempted, what was found.
    pub error: String,
    /// What to do; may be empty.
    pub hint: String,
    /// The exit code.
    pub code: u8,
    /// Whether it may be otherwise in a moment: nobody answered, or with a fault of their own.
    pub passing: bool,
}

impl Failure {
    /// Something that did not work.
    pub fn new(error: impl Display, hint: impl Display) -> Self {
        Self {
            error: error.to_string(),
            hint: hint.to_string(),
            code: FAILED,
            passing: false,
        }
    }

    /// Something that may work in a moment.
    pub fn passing(error: impl Display, hint: impl Display) -> Self {
        Self {
            passing: true,
            ..Self::new(error, hint)
        }
    }

    /// Something that was asked in the wrong way.
    pub fn usage(error: impl Display, hint: impl Display) -> Self {
        Self {
            code: USAGE,
            ..Self::new(error, hint)
        }
    }

    /// The lines for stderr.
    #[must_use]
    pub fn text(&self) -> String {
        if self.error.is_empty() {
            String::new()
        } else if self.hint.is_empty() {
            format!("error: {}\n", self.error)
        } else {
            format!("error: {}\nhint: {}\n", self.error, self.hint)
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"), "")
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // A reader that has seen enough (`viking events | head`) needs no words.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new("", "");
        }
        Self::new(error, "")
    }
}

/// A command's result: the exit code, or what went wrong.
pub type Outcome = Result<u8, Failure>;
