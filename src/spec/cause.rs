//! Errors of libraries as one line for people: with their causes, and in words instead of the libraries' types.

use std::error::Error;

/// An error with its causes. A library's first line often says only that something failed ("error sending request").
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let told = next.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = next.source();
    }
    plain(&text)
}

/// A text of a library without the names of its types.
pub fn plain(text: &str) -> String {
    // rustls passes on what its verifier has no variant for: OtherError(UnsupportedCertVersion), ...
    const OTHER: &str = "Other(OtherError(";
    let Some((before, rest)) = text.split_once(OTHER) else { return text.to_owned() };
    let Some((word, after)) = rest.split_once("))") else { return text.to_owned() };
    let told = match word {
        "UnsupportedCertVersion" => {
            "it is of X.509 version 1, which TLS libraries refuse: issue one of version 3 with a subjectAltName"
        }
        other => other,
    };
    format!("{before}{told}{after}")
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Failure(&'static str, Option<Box<Failure>>);

    impl fmt::Display for Failure {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Failure {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn causes_are_told_once_each() {
        let refused = || Some(Box::new(Failure("connection refused", None)));
        let again = Failure("tcp connect error: connection refused", refused());
        for (error, wanted) in [
            (Failure("error sending request", None), "error sending request"),
            (Failure("error sending request", refused()), "error sending request: connection refused"),
            (Failure("no answer", Some(Box::new(again))), "no answer: tcp connect error: connection refused"),
        ] {
            assert_eq!(describe(&error), wanted);
        }
    }

    #[test]
    fn an_old_certificate_is_told_in_words() {
        let said = plain("invalid peer certificate: Other(OtherError(UnsupportedCertVersion)); trying again");
        assert_eq!(
            said,
            "invalid peer certificate: it is of X.509 version 1, which TLS libraries refuse: issue one of version 3 with a \
             subjectAltName; trying again"
        );
        for same in ["", "Other(OtherError(", "connection refused"] {
            assert_eq!(plain(same), same);
        }
    }
}
