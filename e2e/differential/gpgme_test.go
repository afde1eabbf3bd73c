//go:build !containers_image_openpgp

package differential

// library is the build of containers/image that this test is compiled with.
const library = gpgme
