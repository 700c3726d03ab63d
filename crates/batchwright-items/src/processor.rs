//! Kinds of processors, which treat each record alone.

mod mask;
#[cfg(feature = "validate")]
mod validate;

pub(crate) use mask::MaskKind;
#[cfg(feature = "validate")]
pub(crate) use validate::ValidateKind;
