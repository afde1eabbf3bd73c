.PHONY: run build release test long modules soak fuzz bench bench-flat bench-go lint

# What "make run" hands to the server: make run ARGS="-listen 127.0.0.1:5001"
ARGS =
FUZZTIME = 60s
# "make lint" vets, and more than that.
GO_TEST = go test -race -vet=off -timeout 40m

build:
	CGO_ENABLED=0 go build -trimpath -o countersign ./cmd/countersign

# Static binaries for each architecture in dist/, with checksums and bills of materials. The same
# commit and the same Go make the same bytes, wherever and whenever; the version is the tag's.
RELEASE = env CGO_ENABLED=0 GOFLAGS= GOWORK=off GOEXPERIMENT= GOOS=linux GOAMD64=v1 GOARM64=v8.0

ARCHITECTURES = amd64 arm64

release:
	rm -rf dist
	mkdir dist
	@for architecture in $(ARCHITECTURES); do \
		echo "dist/countersign-linux-$$architecture"; \
		$(RELEASE) GOARCH=$$architecture go build -buildvcs=auto -trimpath -ldflags='-s -w' -o dist/countersign-linux-$$architecture ./cmd/countersign && \
		(cd deploy/sbom && go run -trimpath . ../../dist/countersign-linux-$$architecture >../../dist/countersign-linux-$$architecture.cdx.json) || exit 1; \
	done
	cd dist && sha256sum countersign-* >SHA256SUMS

run: build
	@exec ./countersign serve $(ARGS)

# The tests take few ways to compile: with the race detector, as releases are, and as the differential
# test has to. Each further one compiles all dependencies once more, which takes minutes.

# timed NAME COMMAND: runs a part and says how long it took.
define timed
	@began=$$(date +%s); printf '== %s\n' '$(1)'; $(2) && printf '== %s: %s s\n' '$(1)' $$(($$(date +%s) - began))
endef

# The end-to-end tests wait much: the other modules have the processors meanwhile, and only then.
test:
	$(call timed,what the tests need,e2e/install)
	$(call timed,lint,$(MAKE) --no-print-directory lint)
	$(call timed,what hostile input costs,CGO_ENABLED=0 go test -trimpath -count=1 -run CostLittle ./signature ./policy)
	@$(MAKE) --no-print-directory -j 2 long modules

long:
	$(call timed,packages,$(GO_TEST) $$(go list ./... | grep -v /e2e))
	$(call timed,end to end,$(GO_TEST) -parallel 6 ./e2e/...)

modules: GO_TEST := nice $(GO_TEST)
modules:
	$(call timed,pkcs11,cd cmd/countersign-signer-pkcs11 && $(GO_TEST) ./...)
	$(call timed,manifests,cd deploy/kubernetes/render && nice go test ./...)
	$(call timed,differential,cd e2e/differential && nice go test -timeout 40m -tags containers_image_openpgp ./...)
	$(call timed,schemas,cd e2e/schemas && nice go test ./...)

# The counts that the tests run a tenth of, in full.
soak: export COUNTERSIGN_SOAK = 1
soak:
	e2e/install
	$(GO_TEST) -timeout 4h -count 1 ./...
	cd cmd/countersign-signer-pkcs11 && go test -count 1 ./...
	cd deploy/kubernetes/render && go test -count 1 ./...
	cd e2e/differential && go test -timeout 4h -tags containers_image_openpgp -count 1 ./...
	cd e2e/schemas && go test -count 1 ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	@go vet -race ./...

# Every fuzz test for FUZZTIME, one after the other.
fuzz:
	@for package in $$(go list ./...); do \
		for test in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "== $$package $$test"; \
			go test -run '^$$' -fuzz "^$$test\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

# The server beside others, in under fifteen minutes; make bench BENCH=-short in under two.
BENCH =
bench:
	e2e/install
	go run ./e2e/bench $(BENCH)

# What a store costs as it grows. It wants 35 GB; make bench-flat BENCH="-disk 100000 -database 1000000" much less.
bench-flat:
	e2e/install
	go run ./e2e/bench -flat $(BENCH)

# Go's own benchmarks.
bench-go:
	go test -run '^$$' -bench . -benchmem ./...
