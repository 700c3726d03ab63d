//! The flow of a job as DOT and as SVG.
pub(super) fn dot(_: &super::Job) -> String {
    String::new()
}
pub(super) fn svg(_: &super::Job) -> String {
    String::new()
}
