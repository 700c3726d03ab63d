//! Kinds of processors, which treat each record alone.

mod mask;
#[cfg(feature = "script")]
mod script;
#[cfg(feature = "validate")]
mod validate;

pub(crate) use mask::MaskKind;
#[cfg(feature = "script")]
pub(crate) use script::ScriptKind;
#[cfg(feature = "validate")]
pub(crate) use validate::ValidateKind;
