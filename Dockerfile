# Fleetgate as one static binary on an empty image.
#   docker build -t fleetgate .
#   docker run --rm -p 8080:8080 -v "$PWD/config:/config:ro" fleetgate run --config /config/fleetgate.toml

FROM rust:1.95-bookworm AS build
WORKDIR /build

# The dependencies first, so that a change of Fleetgate's own code does not download them again.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir -p src tests/it && touch src/lib.rs && echo 'fn main() {}' | tee src/main.rs >tests/it/main.rs \
  && cargo fetch --locked

COPY scripts/protoc scripts/protoc
COPY src src
# With --target, build scripts and procedural macros stay dynamic: they cannot be static.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
  && RUSTFLAGS="-Ctarget-feature=+crt-static" cargo build --release --locked --bin fleetgate --target "$target" \
  && cp "target/$target/release/fleetgate" /fleetgate

FROM scratch
COPY --from=build /fleetgate /fleetgate
# Who signs the certificates of registries.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65534:65534
EXPOSE 8080 9901
ENTRYPOINT ["/fleetgate"]
CMD ["run"]
