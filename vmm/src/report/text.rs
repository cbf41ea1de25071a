//! The report as a person reads it.
use super::Report;
/// A report to be displayed.
pub struct Text<'a>(&'a Report);
impl<'a> Text<'a> {
    /// Without colour.
    pub fn plain(report: &'a Report) -> Self {
        Self(report)
    }
}
impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.findings)
    }
}
