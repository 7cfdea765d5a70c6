# The image of the agent: one static binary, and nothing to run beside it.
#
#   docker buildx build --platform linux/amd64,linux/arm64 \
#     --build-arg VERSION="$(git describe --tags --always)" -t sidestep-agent .
#
# Where no engine runs, test/image makes the same image from the last stage of
# this file.

# The build runs on the builder's own architecture and cross-compiles. By its
# digest, since toolchain and authorities end up in the image.
FROM --platform=$BUILDPLATFORM golang:1.26.8-bookworm@sha256:f4191582e1522dfc5980a6bdc0309a756f9697f3e7d0f199c7e26fc82ab324fd AS build
WORKDIR /src
# Modules change less often than sources.
COPY go.mod go.sum ./
RUN go mod download
COPY cmd/agent cmd/agent
COPY pkg pkg
ARG TARGETARCH
ARG VERSION=unknown
# Static, since scratch has no C library; without the builder's paths and
# version control, so that equal sources give equal binaries.
RUN CGO_ENABLED=0 GOOS=linux GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /out/agent ./cmd/agent

# No shell, no libraries, no other program: nothing that a reader of a pod's
# token could be made to execute.
FROM scratch
ARG VERSION=unknown
LABEL org.opencontainers.image.title="sidestep-agent" \
      org.opencontainers.image.description="Gives pods their own Microsoft Entra identity through the instance metadata service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
# Entra is asked over TLS, and scratch trusts no authority.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/agent /agent
# Root, with the few capabilities of the manifest: Kubernetes gives added
# capabilities to no other user, and the BPF filesystem lets only root pin.
USER 0:0
ENTRYPOINT ["/agent"]
CMD ["run"]
