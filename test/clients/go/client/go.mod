module github.com/sidestep-agent/sidestep/test/clients/go/client

go 1.26.0
