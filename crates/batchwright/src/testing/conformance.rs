pub fn conformance() {}
