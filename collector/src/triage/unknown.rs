//! A question that has no answer.

use crate::kernel::btf::BtfError;
use crate::kernel::kallsyms::KallsymsError;
use crate::vmcore::ReadError;

/// An answer, or why there is none.
pub type Known<T> = Result<T, Unknown>;

/// Why something is not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unknown {
    /// The kernel has no such symbol, type or member, or the dump does not have its tables.
    #[error("{0}")]
    Missing(String),
    /// Memory of it is not in the dump.
    #[error("{0}")]
    Unreadable(String),
    /// What is there cannot be true.
    #[error("{0}")]
    Senseless(String),
    /// The budget is spent: whatever is asked from now on has no answer.
    #[error("the time for it is over")]
    Deadline,
}

impl Unknown {
    /// What cannot be true.
    pub fn senseless(what: impl Into<String>) -> Self {
        Self::Senseless(what.into())
    }
    /// What is not there.
    pub fn missing(what: impl Into<String>) -> Self {
        Self::Missing(what.into())
    }
}

impl From<ReadError> for Unknown {
    fn from(e: ReadError) -> Self {
        Self::Unreadable(crate::engine::chain(&e))
    }
}
impl From<BtfError> for Unknown {
    fn from(e: BtfError) -> Self {
        Self::Missing(crate::engine::chain(&e))
    }
}
impl From<KallsymsError> for Unknown {
    fn from(e: KallsymsError) -> Self {
        Self::Missing(crate::engine::chain(&e))
    }
}
