//! The route of a CORS preflight: the one that takes the request which the preflight asks about.

use http::Method;

use super::middleware::{Middlewares, chain};
use super::request::RequestView;
use super::route::Route;
use super::table::RouteTable;
use crate::exchange::ProxyError;
pub use crate::exchange::preflight::asked_method;
use crate::spec::middleware::MiddlewareSpec;

/// The route that a preflight is given to, and whether it was matched by the method it asks about. Such a route may take
/// no OPTIONS at all, so the caller must never send the preflight on to an endpoint.
///
/// A route that names OPTIONS among its methods takes preflights itself. Else the route of the asked method does where it
/// has the middleware `cors`, which answers; without one, nothing is taken for the sake of a preflight.
///
/// # Errors
/// What the client gets where there is none.
pub fn take(
    table: &RouteTable,
    middlewares: &Middlewares,
    view: &RequestView<'_>,
    asked: &Method,
) -> Result<(usize, bool), ProxyError> {
    let plain = table.take(view);
    let route = |position: usize| &table.routes()[position];
    if let Ok(position) = plain
        && route(position).matching().methods.contains(&Method::OPTIONS)
    {
        return Ok((position, false));
    }
    let of_asked = match table.take(&RequestView { method: asked, ..*view }) {
        Ok(position) => Some(position).filter(|position| Ok(*position) != plain),
        Err(ProxyError::NoRoute) => None,
        Err(error) => return Err(error),
    };
    match of_asked {
        Some(position) if has_cors(route(position), middlewares, view) => Ok((position, true)),
        // A route that cannot be served answers 503 to whatever is for it, rather than 404 to its preflights.
        Some(position) if plain.is_err() && !route(position).state.is_served() => Ok((position, true)),
        Some(_) | None => plain.map(|position| (position, false)),
    }
}

fn has_cors(route: &Route, middlewares: &Middlewares, view: &RequestView<'_>) -> bool {
    let Ok(of_listener) = middlewares.of_listener(view.listener) else { return false };
    chain(of_listener, &route.middlewares).any(|(named, ..)| matches!(*named.spec, MiddlewareSpec::Cors(_)))
}
