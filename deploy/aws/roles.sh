#!/usr/bin/env bash
# Creates the two roles that cluster.yaml names, from the policies beside this script:  deploy/aws/roles.sh BUCKET
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bucket=${1:?usage: deploy/aws/roles.sh BUCKET}
account=$(aws sts get-caller-identity --query Account --output text)
trust='{"Version": "2012-10-17", "Statement":
  [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'

for role in polite-flamingo-head polite-flamingo-worker; do
  aws iam create-role --role-name "$role" --assume-role-policy-document "$trust"
  aws iam put-role-policy --role-name "$role" --policy-name bucket --policy-document "$(sed "s/BUCKET/$bucket/" bucket.json)"
  aws iam create-instance-profile --instance-profile-name "$role"
  aws iam add-role-to-instance-profile --instance-profile-name "$role" --role-name "$role"
done
aws iam put-role-policy --role-name polite-flamingo-head --policy-name autoscaler \
  --policy-document "$(sed "s/ACCOUNT/$account/" autoscaler.json)"
