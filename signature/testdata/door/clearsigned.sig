-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

{"critical":{"identity":{"docker-reference":"registry.example.com/ns/app:v1"},"image":{"docker-manifest-digest":"sha256:e692418e4cbaf90ca69d05a66403747baa33ee08806650b51fab815ad7fc331f"},"type":"atomic container signature"},"optional":{"creator":"test","timestamp":1600000000}}
-----BEGIN PGP SIGNATURE-----

iQEzBAEBCgAdFiEEVwPslssp3gm+9Mp5Bvq0TFPJ/F0FAl/uZgAACgkQBvq0TFPJ
/F0xiQf/Uu/R9s7l0u0G+FU/ugJCAVkkN5w6Nwof5oNwcuNIRio4OHXRY3k3n/iR
F+3RfqZfCldgkaHuoC6DFDsalyn/lq74gOp4VN04XETYZAtG9iojudngzDfye1jm
8Yl+M/JmoYOT3bx09grFjhUAFQlY28Z/O45v7HzDAa/pIXOXjgt3VFUlWvAcKze+
cF8w4lDuwjO8+walI5Zk70WwG0Cn/M5syHm3Tnzy5EnFgBJhqHPDZXbsJy885Of6
9UtzWAcw2dDzXC3yShaqp8CUqeSvzD9EJ2lix9lMMyl1so9D8LP7tYKhgGVTg/NU
H43WjUAsf6GuFEC/PnQXXZPJ1ZfyZg==
=zjGh
-----END PGP SIGNATURE-----
