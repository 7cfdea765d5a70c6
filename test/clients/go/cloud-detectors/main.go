// Command cloud-detectors asks the libraries by which programs find out in which
// cloud they run: those of AWS and Google Cloud, and OpenTelemetry's for all
// three. What is not theirs they must take for another's.
package main

import (
	"context"
	"errors"

	"cloud.google.com/go/compute/metadata"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	ec2 "go.opentelemetry.io/contrib/detectors/aws/ec2/v2"
	"go.opentelemetry.io/contrib/detectors/azure/azurevm"
	"go.opentelemetry.io/contrib/detectors/gcp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"

	"github.com/sidestep-agent/sidestep/test/clients/go/client"
)

const none = "none"

func main() {
	client.Detect(map[string]func(context.Context) (string, error){
		"aws": aws, "gce": gce,
		"otel-azure": otel(azurevm.New()), "otel-aws": otel(ec2.NewResourceDetector()), "otel-gcp": otel(gcp.NewDetector()),
	})
}

// aws asks for what every EC2 instance tells of itself, a token of version 2
// first.
func aws(ctx context.Context) (string, error) {
	_, err := imds.New(imds.Options{}).GetInstanceIdentityDocument(ctx, nil)
	if err == nil {
		return "aws", nil
	}
	return none, nil
}

func gce(ctx context.Context) (string, error) {
	if metadata.OnGCEWithContext(ctx) {
		return "gcp", nil
	}
	return none, nil
}

// otel returns the detector's provider, and with it the instance's id.
func otel(detector resource.Detector) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		found, err := detector.Detect(ctx)
		if err != nil && !errors.Is(err, resource.ErrPartialResource) {
			return "", err
		}
		set := attribute.NewSet()
		if found != nil {
			set = *found.Set()
		}
		provider, ok := set.Value(semconv.CloudProviderKey)
		if !ok {
			return none, nil
		}
		id, _ := set.Value(semconv.HostIDKey)
		return provider.AsString() + " " + id.AsString(), nil
	}
}
