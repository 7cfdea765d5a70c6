package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sidestep-agent/sidestep/pkg/convert"
)

// regionsWithoutFederation are those that Microsoft names, at the time of this
// release, for federated credentials of managed identities. The list changes
// with Azure, which is why there is a flag.
var regionsWithoutFederation = []string{"malaysiasouth", "newzealandnorth"}

type convertFlags struct {
	files            []string
	pods, identities string
	part             string
	options          convert.Options
}

func newConvert(env environment) *cobra.Command {
	var f convertFlags
	cmd := &cobra.Command{
		Use:   "convert -f FILE --issuer URL",
		Short: "Print what replaces the objects of aad-pod-identity, for review",
		Long: "Reads AzureIdentity, AzureIdentityBinding and AzurePodIdentityException objects as kubectl get -o yaml\n" +
			"prints them, and prints the service accounts, az commands, pod labels and configuration that replace\n" +
			"them. It asks neither the cluster nor Azure, and changes nothing. Warnings go to standard error too.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return convertObjects(env, cmd.InOrStdin(), f) },
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.files, "filename", "f", nil, "file with objects, - for standard input; may be repeated")
	flags.StringVar(&f.options.Issuer, "issuer", "", "the cluster's OIDC issuer: az aks show --query oidcIssuerProfile.issuerUrl --output tsv")
	flags.StringVar(&f.pods, "pods", "", "file with all pods: kubectl get pods --all-namespaces --output yaml; without it, who uses what is left to fill in")
	flags.StringVar(&f.identities, "identities", "", "file with the managed identities: az identity list --output json; without it, their regions are not checked")
	flags.BoolVar(&f.options.Namespaced, "namespaced", false, "aad-pod-identity ran with forceNamespaced")
	flags.StringSliceVar(&f.options.UnsupportedRegions, "regions-without-federation", regionsWithoutFederation,
		"regions in which managed identities cannot have federated credentials")
	addOneOf(flags, &f.part, "print", "", "what to print", convert.Parts...)
	for _, name := range []string{"filename", "issuer"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // no such flag above
		}
	}
	return cmd
}

func convertObjects(env environment, stdin io.Reader, f convertFlags) error {
	var objects convert.Objects
	for _, name := range f.files {
		if err := readInput(stdin, name, objects.Read); err != nil {
			return err
		}
	}
	if f.pods != "" {
		objects.AssumePods()
		if err := readInput(stdin, f.pods, objects.Read); err != nil {
			return err
		}
	}
	if f.identities != "" {
		if err := readInput(stdin, f.identities, objects.ReadIdentities); err != nil {
			return err
		}
	}
	plan, err := convert.New(&objects, f.options)
	if err != nil {
		return err
	}
	for _, warning := range plan.Warnings {
		fmt.Fprintln(env.stderr, "warning:", warning)
	}
	return plan.Print(env.stdout, f.part)
}

// readInput hands a file, or standard input, to read.
func readInput(stdin io.Reader, name string, read func(io.Reader) error) (err error) {
	in := stdin
	if name != "-" {
		file, openErr := os.Open(name)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		in = file
	}
	if err := read(in); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
