# The server alone, as a static binary: docker build -t countersign .
# It runs as any user of group 0, with a read-only root and without capabilities. All it writes is
# in /var/lib/countersign. The version is that of the tag that is built.
FROM --platform=$BUILDPLATFORM docker.io/library/golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
	go build -buildvcs=auto -trimpath -ldflags='-s -w' -o /out/countersign ./cmd/countersign && \
	mkdir -p /out/root/var/lib /out/root/etc/ssl/certs && mkdir -m 0770 /out/root/var/lib/countersign && \
	cp /etc/ssl/certs/ca-certificates.crt /out/root/etc/ssl/certs/

FROM scratch
# A directory that is copied itself would lose its mode.
COPY --from=build /out/root/ /
COPY --from=build /out/countersign /usr/local/bin/countersign
ENV COUNTERSIGN_DATA=/var/lib/countersign
VOLUME /var/lib/countersign
USER 65532:0
EXPOSE 5000 5080
HEALTHCHECK CMD ["/usr/local/bin/countersign", "health"]
ENTRYPOINT ["/usr/local/bin/countersign"]
CMD ["serve"]
