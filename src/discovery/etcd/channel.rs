//! Defines the connection to a member, counted from when it is opened to when it is closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use etcd_client::{BalancedChannelBuilder, Channel, Error, TlsOptions};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::transport::Endpoint;
use tonic::transport::channel::Change;
use tower::service_fn;

use crate::discovery::status::{Connections, Open};

/// Makes the channel of a client to one member: one connection, made anew when it is lost.
pub(super) struct Counted<'a> {
    pub(super) url: &'a str,
    pub(super) tls: Option<TlsOptions>,
    pub(super) connections: Arc<Connections>,
    /// For a TCP connect.
    pub(super) connect_timeout: Duration,
    /// For a whole call.
    pub(super) timeout: Duration,
    /// Between two pings while a stream is open, and for the answer.
    pub(super) ping: (Duration, Duration),
}

impl BalancedChannelBuilder for Counted<'_> {
    type Error = Error;

    fn balanced_channel(self, buffer: usize) -> Result<(Channel, mpsc::Sender<Change<Uri, Endpoint>>), Error> {
        let mut endpoint = Endpoint::from_shared(self.url.to_owned())?
            .connect_timeout(self.connect_timeout)
            .timeout(self.timeout)
            .keep_alive_while_idle(false)
            .http2_keep_alive_interval(self.ping.0)
            .keep_alive_timeout(self.ping.1);
        if let Some(tls) = self.tls {
            endpoint = endpoint.tls_config(tls)?;
        }
        // The client says there which endpoints it has; we know, and keep the end for it.
        let (updates, endpoints) = mpsc::channel(buffer);
        let (connections, endpoints) = (self.connections, Arc::new(endpoints));
        let channel = endpoint.connect_with_connector_lazy(service_fn(move |uri: Uri| {
            let (connections, endpoints) = (Arc::clone(&connections), Arc::clone(&endpoints));
            async move {
                let _kept = endpoints;
                connect(&uri, &connections).await
            }
        }));
        Ok((Channel::Tonic(channel), updates))
    }
}

async fn connect(uri: &Uri, connections: &Arc<Connections>) -> io::Result<Connection> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(2379);
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(Connection { stream: TokioIo::new(stream), _open: connections.open() })
}

/// An open connection.
struct Connection {
    stream: TokioIo<TcpStream>,
    _open: Open,
}

impl Read for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl Write for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }
}
