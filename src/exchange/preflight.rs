//! CORS preflights: what a browser asks before a request of another origin (Fetch Standard, 3.2.2).

use http::{HeaderMap, HeaderValue, Method, header};

/// The method that a preflight asks about; `None` for a request that is no preflight. Routing and the middleware `cors`
/// share this one definition, so that whatever routing takes for a preflight is answered as one.
#[inline]
pub fn asked_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS {
        return None;
    }
    single(headers, &header::ORIGIN)?;
    let asked = single(headers, &header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

/// The origin of a request; `None` without one, and where several are given.
pub fn origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    single(headers, &header::ORIGIN)
}

fn single<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_is_options_with_one_origin_and_one_method() {
        let asked = |method: Method, headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            asked_method(&method, &map).map(|method| method.to_string())
        };
        let (origin, put) = (("origin", "https://a.test"), ("access-control-request-method", "PUT"));
        assert_eq!(asked(Method::OPTIONS, &[origin, put]).as_deref(), Some("PUT"));
        assert_eq!(asked(Method::OPTIONS, &[origin, (put.0, "X-OWN")]).as_deref(), Some("X-OWN"));
        for (method, headers) in [
            (Method::GET, &[origin, put][..]),
            (Method::OPTIONS, &[origin]),
            (Method::OPTIONS, &[put]),
            (Method::OPTIONS, &[origin, origin, put]),
            (Method::OPTIONS, &[origin, put, put]),
            (Method::OPTIONS, &[origin, (put.0, "P U T")]),
            (Method::OPTIONS, &[origin, (put.0, "")]),
        ] {
            assert_eq!(asked(method.clone(), headers), None, "{method} {headers:?}");
        }
    }
}
