package convert

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

// convertExceptions makes one entry per label, since any one label exempted a
// pod. The agent's own defaults stay, as a list that is given replaces them.
func (c *converter) convertExceptions() {
	for _, e := range config.Default().Exceptions {
		c.plan.exceptions = append(c.plan.exceptions, exception{e, "the agent's default"})
	}
	for _, name := range sorted(c.exceptions) {
		labels := c.exceptions[name].Spec.PodLabels
		if len(labels) == 0 {
			c.warn("AzurePodIdentityException %s names no labels: it exempted no pod, left out", name)
		}
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			c.convertException(name, key, labels[key])
		}
	}
}

func (c *converter) convertException(name types.NamespacedName, key, value string) {
	if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(value)) > 0 {
		c.warn("AzurePodIdentityException %s: %q=%q is no label: it exempted no pod, left out", name, key, value)
		return
	}
	spellings := c.spellings(name.Namespace, key, value)
	e := config.Exception{Namespaces: []string{name.Namespace}, PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{key: value}}}
	if len(spellings) > 1 {
		e.PodSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: key, Operator: metav1.LabelSelectorOpIn, Values: spellings},
		}}
	}
	c.warnSpellings(name, key, value, spellings)
	if !c.hasException(e) {
		c.plan.exceptions = append(c.plan.exceptions, exception{e, fmt.Sprintf("AzurePodIdentityException %s", name)})
	}
}

// warnSpellings says that a value counted in any case, and here in these alone.
func (c *converter) warnSpellings(name types.NamespacedName, key, value string, spellings []string) {
	switch hasCase := strings.ToLower(value) != strings.ToUpper(value); {
	case !hasCase:
	case !c.podsKnown:
		c.warn("AzurePodIdentityException %s matched %s=%s in any case; here its case counts: add other spellings that pods have", name, key, value)
	case len(spellings) > 1:
		c.warn("AzurePodIdentityException %s matched %s=%s in any case; here only as pods spell it now: %s",
			name, key, value, strings.Join(spellings, ", "))
	}
}

// spellings returns the value and how the namespace's pods spell it otherwise.
func (c *converter) spellings(namespace, key, value string) []string {
	found := []string{value}
	for _, name := range sorted(c.pods) {
		has := c.pods[name].Labels[key]
		if name.Namespace == namespace && strings.EqualFold(has, value) &&
			len(validation.IsValidLabelValue(has)) == 0 && !slices.Contains(found, has) {
			found = append(found, has)
		}
	}
	slices.Sort(found)
	return found
}

func (c *converter) hasException(e config.Exception) bool {
	return slices.ContainsFunc(c.plan.exceptions, func(have exception) bool {
		return slices.Equal(have.Namespaces, e.Namespaces) &&
			metav1.FormatLabelSelector(&have.PodSelector) == metav1.FormatLabelSelector(&e.PodSelector)
	})
}
