//! What comes out of a file that was written for another tool: settings, and what there is to say.

use super::sources::Sources;
use super::written::Written;
use crate::diagnostic::{Finding, Severity};
use std::ops::Range;

/// Settings in the making.
#[derive(Clone, Debug)]
pub struct Translation<'a> {
    /// The files.
    pub sources: &'a Sources,
    /// The settings so far.
    pub written: Written,
    /// What there is to say, in the order in which it was found.
    pub findings: Vec<Finding>,
}

impl<'a> Translation<'a> {
    /// Nothing yet.
    pub fn new(sources: &'a Sources) -> Self {
        Self { sources, written: Written::default(), findings: Vec::new() }
    }

    fn find(&mut self, severity: Severity, span: &Range<usize>, message: String, advice: &str) {
        let diagnostic = self.sources.diagnostic(span, message).advise(advice);
        self.findings.push(Finding { severity, diagnostic });
    }

    /// Nothing can be armed with this.
    pub fn error(&mut self, span: &Range<usize>, message: impl Into<String>, advice: &str) {
        self.find(Severity::Error, span, message.into(), advice);
    }

    /// Something will not be as it was.
    pub fn warning(&mut self, span: &Range<usize>, message: impl Into<String>, advice: &str) {
        self.find(Severity::Warning, span, message.into(), advice);
    }

    /// It is as it was, in another way.
    pub fn remark(&mut self, span: &Range<usize>, message: impl Into<String>, advice: &str) {
        self.find(Severity::Remark, span, message.into(), advice);
    }

    /// How grave the gravest finding is.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).min()
    }
}
