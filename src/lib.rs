//! Fleetgate: a gateway for fleets of machines that are not on Kubernetes. It learns from files, Consul and
//! etcd where services are, and routes, balances and checks HTTP traffic to them. This page is the map.
//!
//! ```text
//!   files   Consul   etcd   DNS                           clients
//!     |       |       |      |                               |
//!     v       v       v      v                               v
//! +----------------------------+       +-------------------------------------------+
//! | discovery                  |       | proxy: workers, each with a thread,       |
//! | watches under supervision  |       | a runtime and a socket of its own         |
//! +----------------------------+       |                                           |
//!     |                   ^            | accept > gate > route > target > endpoint |---> services
//!     | documents and     | sources    +-------------------------------------------+
//!     v endpoints         | wanted         ^               ^               |
//! +----------------------------+           |               | health of     | counters,
//! | control                    |           |               | an endpoint   v log lines
//! | guard > merge > build >pace|           |          +---------+     +-----------+
//! +----------------------------+           |          | health  |     | telemetry |
//!     |                                    |          +---------+     +-----------+
//!     | Arc<Snapshot>,                     |               ^                | read
//!     | a generation after another         |               |                v
//!     +------------------------------------+---------------+------->  +-----------+
//!       one watch channel                                             | admin     |
//!                                                                     +-----------+
//! ```
//!
//! Data flows one way. Three arrows lead back, and none carries data that is served: control tells discovery which
//! sources the upstreams name (*wanted*) and what is wrong with well-formed items, for the feedback keys in their registry
//! (*diagnostics*); operators tell control what to drain and what to accept. Whoever owns a route edits it where it lies, and it comes in again by its watch.
//! Where the gateway is to be found in a registry, discovery writes its own entry there, and nothing else.
//!
//! # The modules, in the order data moves
//!
//! | module | is for |
//! |---|---|
//! | [`spec`] | what someone asked for, as plain data that cannot be wrong, and the pure decoders that make it of text |
//! | [`config`] | the static settings: defaults, a file, the environment; every problem with its place; `check`, `schema` |
//! | [`discovery`] | providers (files, Consul, etcd, DNS); the one retry loop; the judgement whether a read may take away; the gateway's own entry in a registry |
//! | [`control`] | what of a registry is not believed (guard), who wins a name (merge), the next snapshot of that and the last one (build), when it goes out (pace); what was applied and why (history), what a request would meet (explain) |
//! | [`snapshot`] | the immutable picture that is served, and its pure functions: matching, the draw of a target, who is usable |
//! | [`health`] | active checks, which write what they find into an endpoint's state |
//! | [`middleware`] | steps around exchanges, a file each, and the chain that a request passes |
//! | [`exchange`] | what travels with a request: bodies, errors and their flags, the headers that matter, what is known of gRPC |
//! | [`proxy`] | the data plane: listeners, workers, connections, the gate, balancing, forwarding, upgrades |
//! | [`telemetry`] | counters of the workers, their Prometheus form, the access log, our own log |
//! | [`admin`] | the admin API: health, readiness, metrics, views of what is known |
//! | [`app`] | the only wiring, and the order of start and stop |
//! | [`cli`] | the command line, a file a command |
//!
//! Which of them may use which is fixed: `tests/it/architecture.rs` reads every path and fails on a new arrow.
//!
//! # The life of a request
//!
//! 1. A worker accepts the connection, or gets it from one that has many more, shakes hands where the listener speaks
//!    TLS, and hyper reads a request head, of HTTP/1.1 or HTTP/2.
//! 2. The gate refuses what an origin could read in two ways, and brings the path into its one form.
//! 3. The route table of the worker's snapshot finds the route. None: 404 `NR`. Broken: 503 `NC`.
//! 4. The first target whose condition holds is taken, else one is drawn by weight; a sticky route draws by a hash
//!    of its client. A drawn target without a usable endpoint leaves its share to the others.
//! 5. Unless the upstream's breaker refuses it, the balancer picks an endpoint; a kept connection is used, or one that carries
//!    others where the endpoint speaks HTTP/2, else one is made. As far as the route's retries go another is tried; what each try came to judges its endpoint. From here on
//!    the exchange holds its route, upstream and endpoint, not the snapshot.
//! 6. Both bodies stream, each with its limits and pauses; an upgrade becomes a tunnel.
//! 7. When the last byte has gone, or the client has, the frame of the exchange tells log and counters, once.
//!
//! # The life of an update
//!
//! 1. A watch returns: a file's folder changed, Consul's blocking query answered, an etcd watch sent an event.
//! 2. It is judged. Additions and changes are taken; a removal that looks like the registry's fault is held until a
//!    second read confirms it. A read that failed changes nothing at all.
//! 3. Decoders make specs of it. An item with a mistake keeps its last good form, and the mistake is reported.
//! 4. The provider publishes its whole state; a state equal to the last one is dropped.
//! 5. Control holds what a wiped registry lost, merges all states, tells discovery which sources are wanted now, and
//!    builds the next snapshot: what did not change is the same object, and an endpoint that was there before keeps its
//!    state. What registries said is saved for the next start.
//! 6. The first change goes out at once, a burst as one, a removal without waiting.
//! 7. Workers take the new snapshot over, with the next request at the latest, and keep the connections of all that
//!    stayed. Exchanges under way end on what they began with, and in the time of a drain where their endpoint takes no more.
//!
//! # Words
//!
//! | word | means |
//! |---|---|
//! | listener | an address that accepts client connections, with its protocol settings |
//! | downstream, upstream side | the client's side, the service's side of an exchange |
//! | route | what to match in a request, and what to do with it |
//! | target | one possible destination of a route: an upstream or a subset of one, with a weight or a condition |
//! | upstream | a named pool of endpoints with its settings |
//! | endpoint | one address of an upstream, with a weight and labels |
//! | subset | the endpoints of an upstream whose labels match a selector |
//! | label | a key and value on an endpoint, from Consul's `Meta` and tags or from a document |
//! | provider | a source of documents or endpoints: `file`, `etcd`, `consul-kv`, `consul-tags`, `consul`, `dns` |
//! | source | where an upstream's endpoints come from: a Consul service, a range of keys in etcd, names to resolve |
//! | document | the text of one route, upstream or certificate, wherever it lies |
//! | snapshot | the immutable, complete picture that the workers serve from, numbered by generation |
//! | worker | one data-plane thread |
//! | exchange, attempt | one request and its response, one try at an endpoint |
//! | held | an endpoint or document that the registry lost in a suspicious way, still served until that is confirmed |
//! | revision, index | etcd's counter, Consul's; a generation is ours |

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod discovery;
pub mod exchange;
pub mod health;
pub mod middleware;
pub mod proxy;
pub mod snapshot;
pub mod spec;
pub mod telemetry;
